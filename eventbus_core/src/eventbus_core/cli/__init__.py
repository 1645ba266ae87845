"""The command line: the console script ``eventbus``, and ``python -m eventbus``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from eventbus_core.errors import EventBusError

__all__ = ("main",)

FAULT = 2


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run the command line and exit; *arguments* are those of the process if not given.

    What eventbus raises on purpose becomes one line on stderr and exit status 2.
    """
    try:
        from eventbus_core.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        fail(f"the command line needs {missing}: pip install 'eventbus-core[cli]'")
    try:
        app(None if arguments is None else list(arguments), prog_name="eventbus")
    except EventBusError as error:
        fail(str(error))
    sys.exit()


def fail(message: str, status: int = FAULT) -> NoReturn:
    """Exit with *status* and one line on stderr that says *message*."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
