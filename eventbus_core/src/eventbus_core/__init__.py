"""
The core of eventbus: protocol, routing, sessions and API.

Applications import ``eventbus``. This package is for those who write backends: what is named
here is public, the modules that it comes from are not. Nothing here imports a backend.
"""

from eventbus_core._version import __version__
from eventbus_core.blocking import BlockingBus, BlockingClient, connect_blocking
from eventbus_core.bus import Bus
from eventbus_core.client import Client
from eventbus_core.connect import connect
from eventbus_core.diagnosis import Finding
from eventbus_core.discovery import Backend, backends, load_backend, register
from eventbus_core.errors import (
    BackendLoadError,
    BusClosed,
    ClientAlreadyClaimed,
    ClientNotFound,
    ClientTakenOver,
    ConfigurationError,
    EventBusError,
    EventDataError,
    EventTooLarge,
    FrameError,
    InvalidName,
    LimitExceeded,
    NamespaceMismatch,
    NodeAlreadyPresent,
    OptionError,
    RequestFailed,
    RequestTimeout,
    TransportUnavailable,
    UnknownBackendError,
)
from eventbus_core.event import Event
from eventbus_core.explanation import Explanation
from eventbus_core.histogram import Histogram
from eventbus_core.losses import Dropped, Gap, Undeliverable
from eventbus_core.options import BusOptions, option
from eventbus_core.stats import Stats
from eventbus_core.transport import (
    ALL_NODES,
    Capabilities,
    Claim,
    Directory,
    Frame,
    Interrupted,
    Node,
    Owner,
    Partition,
    Terms,
    Transport,
    lane_partition,
    node_partition,
)
from eventbus_core.uri import TransportURI

__all__ = (
    "ALL_NODES",
    "Backend",
    "BackendLoadError",
    "BlockingBus",
    "BlockingClient",
    "Bus",
    "BusClosed",
    "BusOptions",
    "Capabilities",
    "Claim",
    "Client",
    "ClientAlreadyClaimed",
    "ClientNotFound",
    "ClientTakenOver",
    "ConfigurationError",
    "Directory",
    "Dropped",
    "Event",
    "EventBusError",
    "EventDataError",
    "EventTooLarge",
    "Explanation",
    "Finding",
    "Frame",
    "FrameError",
    "Gap",
    "Histogram",
    "Interrupted",
    "InvalidName",
    "LimitExceeded",
    "NamespaceMismatch",
    "Node",
    "NodeAlreadyPresent",
    "OptionError",
    "Owner",
    "Partition",
    "RequestFailed",
    "RequestTimeout",
    "Stats",
    "Terms",
    "Transport",
    "TransportURI",
    "TransportUnavailable",
    "Undeliverable",
    "UnknownBackendError",
    "__version__",
    "backends",
    "connect",
    "connect_blocking",
    "lane_partition",
    "load_backend",
    "node_partition",
    "option",
    "register",
)
