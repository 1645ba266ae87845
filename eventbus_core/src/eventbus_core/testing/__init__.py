"""
Tests for those who write backends, and for those who use the bus.

:class:`BackendSuite` holds a backend against the guarantees of the bus. ``chaos+SCHEME://`` puts
faults between the nodes (:mod:`eventbus_core.testing.chaos`), and ``eventbus_core.testing.plugin``
is a pytest plugin with buses for an application's own tests.
"""

try:
    import hypothesis as _  # noqa: F401
    import pytest
except ImportError as error:
    raise ImportError(
        f"eventbus_core.testing needs pytest and hypothesis ({error}): pip install 'eventbus-core[testing]'"
    ) from error
else:
    asserting = ("bus", "directory", "failure", "transport", "upset")
    pytest.register_assert_rewrite(
        *(f"{__name__}.{name}_suite" for name in asserting),
        *(f"{__name__}.{name}" for name in ("parties", "records", "streams", "upheaval", "world")),
    )

from eventbus_core.testing.chaos import Chaos, ChaosTransport, chaos_around
from eventbus_core.testing.inbox import Inbox
from eventbus_core.testing.suite import BackendSuite
from eventbus_core.testing.waiting import until

__all__ = ("BackendSuite", "Chaos", "ChaosTransport", "Inbox", "chaos_around", "until")
