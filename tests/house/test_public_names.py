"""The two lists of public names: what an application imports, and what a backend imports."""

from importlib import import_module
from typing import Final

import pytest

PUBLIC: Final = {
    "eventbus": """
        Backend BackendLoadError BlockingBus BlockingClient BlockingConsumer BlockingQueue BlockingRegistration
        Buffers Bus BusClosed ClaimsSuspended Client ClientAlreadyClaimed ClientNotFound ClientTakenOver
        ConfigurationError ConnectOptions Consumer Dropped Event EventBusError EventDataError EventTooLarge Explanation
        Gap Histogram InvalidName LimitExceeded NamespaceMismatch Node NodeAlreadyPresent NodeDraining OptionError
        Owner PartitionRefused Portal PortalClient PortalConsumer PortalQueue PortalRegistration ProcessBus Queue
        Registration RequestFailed RequestTimeout Resumed Retention Stats TopicNotRetained TransportUnavailable
        Undeliverable UnknownBackendError __version__ backends connect connect_blocking drain_on_sigterm quote register
        unquote
    """,
    "eventbus_core.backend": """
        ALL_NODES Address BusOptions Capabilities Claim Directory Disconnected Entry Finding Frame History Interrupted
        NewEntry NoOptions Node Outcome Owner POSITION_LIFE Page Partition Position PAGE_SIZE Retention Role Terms
        Transport TransportURI get_logger lane_partition new_epoch node_partition option
    """,
    "eventbus_core.testing": "BackendSuite Chaos ChaosTransport Inbox chaos_around until",
    "eventbus_core": "__version__",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_exactly_these(module: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(PUBLIC[module].split())


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_resolves(module: str) -> None:
    found = import_module(module)
    assert [name for name in found.__all__ if getattr(found, name, None) is None] == []
