"""What a suite is run on: the fixtures that a subclass may override."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest


class UnderTest:
    """
    The half of a suite that has no tests.

    Attributes:
        examples: how many cases each property is tried with; those with faults get a quarter of it.
    """

    pytestmark = pytest.mark.anyio
    examples: ClassVar[int] = 20

    @pytest.fixture
    def uri(self) -> str:
        """Return the URI to test at; the one fixture that must be overridden."""
        raise NotImplementedError("override the fixture 'uri', and return the URI of a broker that runs")

    @pytest.fixture
    def restart(self) -> Callable[[], object] | None:
        """Return a function that restarts the broker at ``uri`` and returns once it serves again, if there is one."""
        return None

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the event loop to run on: ``asyncio`` or ``trio``."""
        return "asyncio"
