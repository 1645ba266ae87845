"""
Write the option tables of uris.md, from the attrs classes that parse the options.

    python docs/options_table.py            # write the tables
    python docs/options_table.py --check    # print the differences; exit status 1 if there are any
"""

from __future__ import annotations

import re
import sys
from difflib import unified_diff
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from eventbus import backends
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import BusOptions
from eventbus_core.model.retention import RetainedClients, RetainedPatterns, RetainedQueues
from eventbus_core.model.secrets import Secrets

OURS: Final = ("eventbus-core", "eventbus-memory", "eventbus-redis")
PAGE: Final = Path(__file__).with_name("uris.md")
TABLE: Final = re.compile(r"(?<=<!-- options: )([\w+]+)( -->\n).*?(?=<!-- end of options -->)", re.DOTALL)
HEAD: Final = "| option | value | default | meaning |\n|---|---|---|---|\n"
UNITS: Final = {1 << 20: "MiB", 1 << 10: "KiB"}
RETAINED: Final = "dict of names to `Retention`, or [text](missed-events.md#retain-a-topic)"
KINDS: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    RetainedPatterns: RETAINED,
    RetainedClients: RETAINED,
    RetainedQueues: RETAINED,
    Secrets: "text of 32 characters or more, or a list of texts",
}


def option_class(name: str) -> type[Any]:
    """Return the class behind a table: of every bus, or of the backend that serves the scheme *name*."""
    return BusOptions if name == "bus" else load_backend(name).Options


def table(options: type[Any]) -> str:
    """Return the Markdown table of an attrs class of options."""
    hints = get_type_hints(options)
    return HEAD + "".join(_row(field, hints[field.name]) for field in attrs.fields(options))


def written(page: str) -> str:
    """Return the text *page* with all its tables up to date."""
    return TABLE.sub(lambda found: f"{found[1]}{found[2]}\n{table(option_class(found[1]))}\n", page)


def missing(page: str) -> list[str]:
    """Return the schemes of the bundled backends whose options are in no table of *page*."""
    shown = {option_class(found[1]) for found in TABLE.finditer(page)}
    ours = [backend.scheme for backend in backends() if backend.distribution in OURS]
    return [scheme for scheme in ours if attrs.fields(option_class(scheme)) and option_class(scheme) not in shown]


def _row(field: attrs.Attribute[Any], hint: Any) -> str:
    value = _kind(hint) + _bounds(field.metadata.get("minimum"), field.metadata.get("maximum"))
    return f"| `{field.name}` | {value} | {_default(field.default)} | {field.metadata['help']} |\n"


def _kind(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    return KINDS.get(hint) or f"`{getattr(hint, '__name__', hint)}`"


def _bounds(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return ""
    return f", {minimum:.10g} or more" if maximum is None else f", {minimum:.10g} to {maximum:.10g}"


def _default(value: object) -> str:
    if value is None or str(value) == "":
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        for size, unit in UNITS.items():
            if value and value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    before = PAGE.read_text(encoding="utf-8")
    if schemes := missing(before):
        print(f"no table in {PAGE.name} for: {', '.join(schemes)}; add '<!-- options: {schemes[0]} -->' and its end")
        return 1
    after = written(before)
    if arguments != ["--check"]:
        PAGE.write_text(after, encoding="utf-8")
        return 0
    sys.stdout.writelines(unified_diff(before.splitlines(True), after.splitlines(True), "is", "should be"))
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
