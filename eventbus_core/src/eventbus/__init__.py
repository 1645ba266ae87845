"""
One event API, many transports: every name that an application needs.

Backends import ``eventbus_core.backend`` instead.
"""

from eventbus_core._version import __version__
from eventbus_core.api.blocking import (
    BlockingBus,
    BlockingClient,
    BlockingConsumer,
    BlockingQueue,
    BlockingRegistration,
    connect_blocking,
)
from eventbus_core.api.buffers import Buffers
from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.api.connect import connect
from eventbus_core.api.connect_options import ConnectOptions
from eventbus_core.api.discovery import Backend, backends, register
from eventbus_core.api.handling import Registration
from eventbus_core.api.portal import Portal, PortalClient, PortalConsumer, PortalQueue, PortalRegistration
from eventbus_core.api.process_bus import ProcessBus
from eventbus_core.api.queue import Consumer, Queue
from eventbus_core.api.sigterm import drain_on_sigterm
from eventbus_core.backend import Node, Owner, Retention
from eventbus_core.errors import (
    BackendLoadError,
    BusClosed,
    ClaimsSuspended,
    ClientAlreadyClaimed,
    ClientNotFound,
    ClientTakenOver,
    ConfigurationError,
    EventBusError,
    EventDataError,
    EventTooLarge,
    InvalidName,
    LimitExceeded,
    NamespaceMismatch,
    NodeAlreadyPresent,
    NodeDraining,
    OptionError,
    PartitionRefused,
    RequestFailed,
    RequestTimeout,
    TopicNotRetained,
    TransportUnavailable,
    UnknownBackendError,
)
from eventbus_core.model.event import Event
from eventbus_core.model.quoting import quote, unquote
from eventbus_core.model.reports import Dropped, Gap, Resumed, Undeliverable
from eventbus_core.node.explanation import Explanation
from eventbus_core.observability.histogram import Histogram
from eventbus_core.observability.stats import Stats

__all__ = (
    "Backend",
    "BackendLoadError",
    "BlockingBus",
    "BlockingClient",
    "BlockingConsumer",
    "BlockingQueue",
    "BlockingRegistration",
    "Buffers",
    "Bus",
    "BusClosed",
    "ClaimsSuspended",
    "Client",
    "ClientAlreadyClaimed",
    "ClientNotFound",
    "ClientTakenOver",
    "ConfigurationError",
    "ConnectOptions",
    "Consumer",
    "Dropped",
    "Event",
    "EventBusError",
    "EventDataError",
    "EventTooLarge",
    "Explanation",
    "Gap",
    "Histogram",
    "InvalidName",
    "LimitExceeded",
    "NamespaceMismatch",
    "Node",
    "NodeAlreadyPresent",
    "NodeDraining",
    "OptionError",
    "Owner",
    "PartitionRefused",
    "Portal",
    "PortalClient",
    "PortalConsumer",
    "PortalQueue",
    "PortalRegistration",
    "ProcessBus",
    "Queue",
    "Registration",
    "RequestFailed",
    "RequestTimeout",
    "Resumed",
    "Retention",
    "Stats",
    "TopicNotRetained",
    "TransportUnavailable",
    "Undeliverable",
    "UnknownBackendError",
    "__version__",
    "backends",
    "connect",
    "connect_blocking",
    "drain_on_sigterm",
    "quote",
    "register",
    "unquote",
)
