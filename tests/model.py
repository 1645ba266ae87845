"""The model of the bus is part of the conformance suite."""

from eventbus_core.testing.model import matches

__all__ = ("matches",)
