"""What these tests do to a bus makes it log; nobody needs to read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.quiet import quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield
