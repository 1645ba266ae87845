"""Output of the commands: tables and text for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

WIDTH: Final = 100  # in columns, where stdout is no terminal
WIDEST: Final = 10_000


class StdoutConsole(Console):
    """The console for results."""

    def __init__(self) -> None:
        super().__init__(highlight=False)
        if not self.is_terminal:
            self.width = max(self.width, WIDTH)

    def print_table(self, table: Table) -> None:
        """Print *table*; in a narrow terminal its lines are too long, but no word is cut off."""
        needed = self.measure(table, options=self.options.update(width=WIDEST)).minimum
        self.width = max(self.width, needed)
        self.print(table, crop=False)


def figures_table(headings: Sequence[str]) -> Table:
    """Return a table of figures with names in its first column; nothing is cut off at 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def milliseconds(value: float | None) -> str:
    """Return *value* with about three figures, or a dash if there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def print_json(value: object) -> None:
    """Print *value* as a line of JSON, in UTF-8 whatever the locale."""
    write_utf8(msgspec.json.encode(value).decode() + "\n")


def write_utf8(text: str) -> None:
    """Write *text* to stdout in UTF-8, and flush it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
