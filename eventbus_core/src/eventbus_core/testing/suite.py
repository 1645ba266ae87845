"""The conformance suite, whole."""

from __future__ import annotations

from eventbus_core.testing.bus_suite import BusSuite
from eventbus_core.testing.directory_suite import DirectorySuite
from eventbus_core.testing.failure_suite import FailureSuite
from eventbus_core.testing.transport_suite import TransportSuite
from eventbus_core.testing.upset_suite import UpsetSuite


class BackendSuite(TransportSuite, UpsetSuite, DirectorySuite, BusSuite, FailureSuite):
    """
    Checks every guarantee that a backend's :class:`Capabilities` promise.

    Subclass it, and override the fixture ``uri``; ``restart`` and ``anyio_backend`` if there is
    something to return. Each test's name carries the guarantee that it checks, and so does its failure.
    """
