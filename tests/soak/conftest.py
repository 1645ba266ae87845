"""These tests make a bus log a lot, which no reader needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.quiet import quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield
