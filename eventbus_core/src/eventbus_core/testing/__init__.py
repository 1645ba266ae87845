"""
Tests for authors of backends, and for applications that use the bus.

:class:`BackendSuite` tests a backend against the guarantees of the bus. ``chaos+SCHEME://`` puts
faults between the nodes (:mod:`eventbus_core.wrappers.chaos`), and ``eventbus_core.testing.plugin``
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
    pytest.register_assert_rewrite(f"{__name__}.suite", f"{__name__}.simulation")

from eventbus_core.testing.inbox import Inbox
from eventbus_core.testing.suite.backend_suite import BackendSuite
from eventbus_core.testing.waiting import until
from eventbus_core.wrappers.chaos import Chaos, ChaosTransport, chaos_around

__all__ = ("BackendSuite", "Chaos", "ChaosTransport", "Inbox", "chaos_around", "until")
