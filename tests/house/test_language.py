"""Words that no reader should meet: in docs, docstrings, comments, errors and log lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.house.sources import BACKENDS, CORE, ROOT, files, shown

BANNED: Final = {
    "mend": "fix, or say what to do",
    "mends": "fixes",
    "anew": "again",
    "nobody": "name the actor: no node, no receiver",
    "somebody": "name the actor: another node, a receiver",
    "lest": "so that ... not",
    "for ever": "without limit, forever",
    "under way": "in progress, in flight, on its way",
    "laggard": "slow consumer",
    "laggards": "slow consumers",
}
PAGES: Final = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / ".github/CONTRIBUTING.md",
    ROOT / ".ci/run",
    *sorted(ROOT.glob("eventbus_*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCES: Final = files(CORE, CORE.parent / "eventbus", *BACKENDS)
WORDS: Final = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
CODE: Final = re.compile(r"`[^`]*`")


def _findings(path: Path) -> list[str]:
    return [
        f"{shown(path)}:{number}: {word!r}, write {BANNED[word.lower()]!r}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in WORDS.findall(CODE.sub("", line))
    ]


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=shown)
def test_the_text_is_plain_english(path: Path) -> None:
    found = _findings(path)
    assert found == [], "\n".join(found)
