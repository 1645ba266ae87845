"""
The contract: all that a backend implements, and all that it may use.

A backend is a :class:`Transport`, and has a :class:`Directory` and a :class:`History` if it can keep them. It imports
this module, ``eventbus_core.errors`` and, in its tests, ``eventbus_core.testing``; all else is private to the core.
"""

from eventbus_core.backend.directory import Claim, Directory, Node, Owner, Terms
from eventbus_core.backend.finding import Finding
from eventbus_core.backend.history import (
    PAGE_SIZE,
    POSITION_LIFE,
    Entry,
    History,
    NewEntry,
    Page,
    Position,
    new_epoch,
)
from eventbus_core.backend.transport import (
    ALL_NODES,
    Capabilities,
    Disconnected,
    Frame,
    Interrupted,
    NoOptions,
    Outcome,
    Partition,
    Role,
    Transport,
    lane_partition,
    node_partition,
)
from eventbus_core.backend.uri import Address, TransportURI
from eventbus_core.model.retention import Retention
from eventbus_core.observability.log import get_logger
from eventbus_core.options import BusOptions, option

__all__ = (
    "ALL_NODES",
    "PAGE_SIZE",
    "POSITION_LIFE",
    "Address",
    "BusOptions",
    "Capabilities",
    "Claim",
    "Directory",
    "Disconnected",
    "Entry",
    "Finding",
    "Frame",
    "History",
    "Interrupted",
    "NewEntry",
    "NoOptions",
    "Node",
    "Outcome",
    "Owner",
    "Page",
    "Partition",
    "Position",
    "Retention",
    "Role",
    "Terms",
    "Transport",
    "TransportURI",
    "get_logger",
    "lane_partition",
    "new_epoch",
    "node_partition",
    "option",
)
