"""From a URI to a bus."""

from __future__ import annotations

import os
import secrets
import socket
from functools import partial

import attrs

from eventbus_core.bus import Bus
from eventbus_core.discovery import load_backend
from eventbus_core.errors import OptionError
from eventbus_core.late import LateTransport
from eventbus_core.options import BusOptions, option_names, parse_options
from eventbus_core.uri import TransportURI


def connect(uri: str = "memory://", **options: object) -> Bus:
    """
    Return a bus on the backend that *uri* names, to be opened with ``async with``.

    Options are given in the URI's query or as keywords: those of :class:`BusOptions`, and those
    of the backend. Without a URI the bus lives in this process alone and needs no network.

    Raises:
        UnknownBackendError: nothing that is installed serves the scheme; the message says what to install.
        BackendLoadError: the backend is installed but cannot be loaded.
        OptionError: an option is unknown, given twice, or has a bad value.
        InvalidName: the node's id or the namespace breaks the rules.
    """
    parsed = TransportURI.parse(uri)
    transport = load_backend(parsed.scheme)
    given = _merged(parsed, options)
    ours = option_names(BusOptions)
    unknown = given.keys() - ours - option_names(transport.Options)
    if unknown:
        raise OptionError.unknown(min(unknown), ours | option_names(transport.Options))
    bus_options = parse_options(BusOptions, {name: value for name, value in given.items() if name in ours})
    backend_options = {name: value for name, value in given.items() if name not in ours}
    node = bus_options.node or _made_up_id()
    place = attrs.evolve(parsed, namespace=bus_options.namespace, options=backend_options)
    make = partial(transport, place, node)
    return Bus(make() if bus_options.wait_for_broker else LateTransport(make), bus_options)


def _merged(uri: TransportURI, keywords: dict[str, object]) -> dict[str, object]:
    for name in keywords:
        if name in uri.options:
            raise OptionError(f"option {name!r} is given twice: in the URI and as a keyword")
    return {**uri.options, **keywords}


def _made_up_id() -> str:
    host = "".join(char if char.isascii() and char.isalnum() else "-" for char in socket.gethostname())
    return f"{host[:32] or 'node'}-{os.getpid()}-{secrets.token_hex(3)}"
