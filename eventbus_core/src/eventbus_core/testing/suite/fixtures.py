"""The fixtures of the suite, which a subclass may override."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest


class UnderTest:
    """
    The base of each suite: fixtures, no tests.

    Attributes:
        examples: number of cases for each property; properties with faults get a quarter of it.
    """

    pytestmark = pytest.mark.anyio
    examples: ClassVar[int] = 20

    @pytest.fixture
    def uri(self) -> str:
        """Return the URI to test; every subclass must override this fixture."""
        raise NotImplementedError("override the fixture 'uri', and return the URI of a running broker")

    @pytest.fixture
    def restart(self) -> Callable[[], object] | None:
        """Return a function that restarts the broker at ``uri`` and returns once it serves again, or ``None``."""
        return None

    @pytest.fixture
    def freeze(self) -> Callable[[], AbstractContextManager[object]] | None:
        """Return a function that gives a context manager within which the broker hangs, or ``None``."""
        return None

    @pytest.fixture
    def freeze_one(self) -> Callable[[], AbstractContextManager[str]] | None:
        """
        Return a function that gives a context manager within which one server of several hangs, or ``None``.

        Its value is the name of that server, as ``Transport.route`` returns it; it is not the one of the directory.
        """
        return None

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the event loop to run on: ``asyncio`` or ``trio``."""
        return "asyncio"
