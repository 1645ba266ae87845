"""Ends a command with an error."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

NOT_RUN: Final = 2
"""The exit status of a command that did not run: its arguments are wrong, or the bus cannot be reached."""

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C ended."""


def fail(message: str, status: int = NOT_RUN) -> NoReturn:
    """Exit with *status* and one line on stderr that says *message*."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
