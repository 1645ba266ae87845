"""From a URI to a bus."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, Unpack

import attrs

from eventbus_core.api.bus import Bus
from eventbus_core.api.connect_options import ConnectOptions
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Transport, TransportURI
from eventbus_core.errors import ConfigurationError, OptionError
from eventbus_core.options import BusOptions, option_names, parse_options
from eventbus_core.wrappers.deferred import DeferredTransport

ENVIRONMENT: Final = "EVENTBUS_SECRET"


def connect(uri: str = "memory://", **options: Unpack[ConnectOptions]) -> Bus:
    """
    Return a bus on the backend that *uri* names, to be opened with ``async with``.

    Options are given in the URI's query or as keywords: those of :class:`BusOptions`, and those
    of the backend. Without a URI the bus lives in this process alone and needs no network.

    Raises:
        UnknownBackendError: nothing that is installed serves the scheme; the message says what to install.
        BackendLoadError: the backend is installed but cannot be loaded.
        OptionError: an option is unknown, given twice, or has a bad value.
        ConfigurationError: ``retain`` is given, and the backend keeps no history; or ``encrypt``, and the package
            ``cryptography`` is not installed.
        InvalidName: the node's id or the namespace breaks the rules.
    """
    parsed = TransportURI.parse(uri)
    transport = load_backend(parsed.scheme)
    given = _with_secret(_merged(parsed, options))
    ours = option_names(BusOptions)
    unknown = given.keys() - ours - option_names(transport.Options)
    if unknown:
        raise OptionError.unknown(min(unknown), ours | option_names(transport.Options))
    bus_options = parse_options(BusOptions, {name: value for name, value in given.items() if name in ours})
    if bus_options.retained and not transport.capabilities.history:
        raise ConfigurationError(
            f"the backend of {parsed.scheme}:// keeps no history, so nothing can be retained; leave out retain, "
            f"retain_clients and retain_queues, or "
            f"use a backend with the capability 'history', such as redis://"
        )
    backend_options = {name: value for name, value in given.items() if name not in ours}
    place = attrs.evolve(parsed, namespace=bus_options.namespace, options=backend_options)

    def make() -> Transport:
        opened = partial(transport, place, bus_options.node or _made_up_id())
        return opened() if bus_options.wait_for_broker else DeferredTransport(opened)

    return Bus(make(), bus_options, make if bus_options.node is None else None)


def _merged(uri: TransportURI, keywords: Mapping[str, object]) -> dict[str, object]:
    for name in keywords:
        if name in uri.options:
            raise OptionError(f"option {name!r} is given twice: in the URI and as a keyword")
    return {**uri.options, **keywords}


def _with_secret(given: dict[str, object]) -> dict[str, object]:
    """Return the options *given*, with the secret from its file or from the environment."""
    path = given.get("secret_file")
    if path is None:
        secret = os.environ.get(ENVIRONMENT)
        return given if "secret" in given or not secret else {**given, "secret": secret}
    if "secret" in given:
        raise OptionError("the secret is given twice: by the options 'secret' and 'secret_file'")
    try:
        secret = Path(str(path)).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds other characters than ASCII"
        named = repr(path) if Path(str(path)).is_absolute() else "(not shown: it may be the secret itself)"
        raise OptionError(f"the secret cannot be read from secret_file {named}: {reason}") from None
    if not secret.split():
        raise OptionError(f"secret_file {path!r} is empty; it must hold a secret")
    return {**given, "secret": secret}


def _made_up_id() -> str:
    host = "".join(char if char.isascii() and char.isalnum() else "-" for char in socket.gethostname())
    return f"{host[:32] or 'node'}-{os.getpid()}-{secrets.token_hex(3)}"
