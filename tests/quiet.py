"""Silence where faults are what a test is about: the log of each would only bury those of failures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the logger of the bus quiet within."""
    logger = logging.getLogger("eventbus")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
