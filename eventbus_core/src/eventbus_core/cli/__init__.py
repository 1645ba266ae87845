"""The command line: the console script ``eventbus``, and ``python -m eventbus``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from eventbus_core.cli.failure import INTERRUPTED, fail
from eventbus_core.cli.standard_streams import OutputFailed, secure_streams
from eventbus_core.errors import EventBusError

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run the command line and exit; *arguments* defaults to those of the process.

    An error that eventbus raises on purpose becomes one line on stderr and exit status 2. If the reader of our output
    has gone, as after ``| head``, the exit status is 0.
    """
    secure_streams()
    try:
        status = _run(_own_arguments() if arguments is None else list(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:  # before the command looked for signals
        status = INTERRUPTED
    except EventBusError as error:
        fail(str(error))
    except OutputFailed as error:
        if error.reader_gone:
            sys.exit(0)
        fail(str(error))
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    try:
        from eventbus_core.cli.app import run_app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        fail(f"the command line needs {missing}: pip install 'eventbus-core[cli]'")
    return run_app(arguments)


def _own_arguments() -> list[str]:
    """Return the arguments of the process; where the locale is ASCII, UTF-8 is decoded all the same."""
    return [_decoded(argument) for argument in sys.argv[1:]]


def _decoded(argument: str) -> str:
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument
