"""
Finding backends by URI scheme, through entry points of the group ``eventbus.backends``.

stevedore and importlib.metadata are imported where they are used: they would take a quarter
of the time of ``import eventbus``, which needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

import attrs

from eventbus_core.backend import Transport
from eventbus_core.errors import BackendLoadError, UnknownBackendError
from eventbus_core.wrappers.base import CHAOS
from eventbus_core.wrappers.chaos import chaos_around

GROUP: Final = "eventbus.backends"

_EXTRAS: Final[Mapping[str, str]] = MappingProxyType({"redis": "redis", "rediss": "redis", "unix": "redis"})
_COMPATIBLE: Final[Mapping[str, str]] = MappingProxyType({"valkey": "redis", "valkeys": "rediss"})
"""Schemes that other clients use for servers which a scheme of ours reaches."""
_registered: dict[str, type[Transport]] = {}
_loaded: dict[str, type[Transport]] = {}
"""The installed backends that were asked for: to look through all that is installed takes 10 ms."""


@attrs.frozen
class Backend:
    """
    An installed backend.

    Attributes:
        scheme: of the URIs that it serves.
        distribution, version: what provides it; empty if it was registered in this process.
        entry_point: what is imported when it is asked for.
    """

    scheme: str
    distribution: str
    version: str
    entry_point: str


def backends() -> list[Backend]:
    """Return every backend that can be had here, by scheme, without importing any."""
    from importlib.metadata import entry_points

    found = [
        Backend(
            point.name,
            point.dist.name if point.dist else "",
            point.dist.version if point.dist else "",
            point.value,
        )
        for point in entry_points(group=GROUP)
    ]
    found += [Backend(scheme, "", "", f"{cls.__module__}:{cls.__qualname__}") for scheme, cls in _registered.items()]
    return sorted(found, key=lambda backend: (backend.scheme, backend.distribution))


def register(scheme: str, transport: type[Transport]) -> None:
    """Use *transport* for *scheme* in this process, before any installed backend; for tests and applications."""
    _registered[scheme] = transport


def load_backend(scheme: str) -> type[Transport]:
    """
    Import and return the transport class that serves *scheme*; no other is imported.

    Raises:
        UnknownBackendError: nothing that is installed serves it.
        BackendLoadError: what serves it cannot be imported or is no transport, or two distributions claim it.
    """
    if known := _registered.get(scheme) or _loaded.get(scheme):
        return known
    if scheme.startswith(CHAOS):
        return chaos_around(load_backend(scheme.removeprefix(CHAOS)))
    driver = _load(scheme, [backend.distribution for backend in backends() if backend.scheme == scheme])
    if not (isinstance(driver, type) and issubclass(driver, Transport)):
        raise BackendLoadError(f"the backend for {scheme}:// is no Transport: {driver!r}")
    _loaded[scheme] = driver
    return driver


def _load(scheme: str, owners: list[str]) -> object:
    from importlib.metadata import EntryPoint, entry_points

    from stevedore import DriverManager
    from stevedore.exception import MultipleMatches, NoMatches

    class BackendManager(DriverManager[Transport]):
        # stevedore's own look-up goes through a file in the user's cache folder that can name
        # entry points which are gone; importlib.metadata is asked each time instead.
        def list_entry_points(self) -> list[EntryPoint]:
            return list(entry_points(group=self.namespace))

    try:
        return BackendManager(GROUP, scheme, on_missing_entrypoints_callback=None).driver
    except NoMatches:
        raise UnknownBackendError(_missing(scheme)) from None
    except MultipleMatches:
        raise BackendLoadError(
            f"more than one distribution provides {scheme}://: {', '.join(owners)}; uninstall all but one"
        ) from None
    except Exception as error:
        raise BackendLoadError(
            f"the backend for {scheme}:// ({', '.join(owners)}) is installed but cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _missing(scheme: str) -> str:
    installed = {backend.scheme for backend in backends()}
    base, plus, kind = scheme.partition("+")
    if ours := _COMPATIBLE.get(base):
        return f"no backend for '{scheme}://'; write '{ours}{plus}{kind}://', which reaches Valkey, too"
    if base not in installed and (extra := _EXTRAS.get(base)):
        return f"no backend for '{scheme}://': pip install 'eventbus[{extra}]'"
    known = sorted(installed | set(_EXTRAS))
    close = get_close_matches(scheme, known, n=1)
    hint = f"did you mean '{close[0]}://'? " if close else ""
    return f"no backend for '{scheme}://'; {hint}known: {', '.join(f'{name}://' for name in known)}"
