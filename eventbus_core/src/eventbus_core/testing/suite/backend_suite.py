"""The conformance suite, whole."""

from __future__ import annotations

from eventbus_core.testing.suite.bus_suite import BusSuite
from eventbus_core.testing.suite.directory_suite import DirectorySuite
from eventbus_core.testing.suite.disruption_suite import DisruptionSuite
from eventbus_core.testing.suite.failure_suite import FailureSuite
from eventbus_core.testing.suite.history_suite import HistorySuite
from eventbus_core.testing.suite.seals_suite import SealsSuite
from eventbus_core.testing.suite.transport_suite import TransportSuite


class BackendSuite(FailureSuite, BusSuite, SealsSuite, DirectorySuite, DisruptionSuite, HistorySuite, TransportSuite):
    """
    Checks every guarantee that a backend's :class:`Capabilities` promise.

    Subclass it, and override the fixture ``uri``; if you can, also ``restart``, ``freeze`` and ``anyio_backend``. The
    name of each test begins with the guarantees that it checks, and its failure names them too.

    pytest runs the tests of the last base class first: each clause of the transport before whole buses, so that
    ``pytest -x`` stops at the simplest cause.
    """
