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

from eventbus_core.errors import BackendLoadError, UnknownBackendError
from eventbus_core.transport import Transport

GROUP: Final = "eventbus.backends"
CHAOS: Final = "chaos+"

_EXTRAS: Final[Mapping[str, str]] = MappingProxyType({"redis": "redis", "rediss": "redis", "unix": "redis"})
_registered: dict[str, type[Transport]] = {}


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
    """Let *transport* serve *scheme* in this process, before any installed backend; for tests and applications."""
    _registered[scheme] = transport


def load_backend(scheme: str) -> type[Transport]:
    """
    Import and return the transport class that serves *scheme*; no other is imported.

    Raises:
        UnknownBackendError: nothing that is installed serves it.
        BackendLoadError: what serves it cannot be imported or is no transport, or two distributions claim it.
    """
    if registered := _registered.get(scheme):
        return registered
    if scheme.startswith(CHAOS):
        return _with_faults(scheme)
    driver = _load(scheme, [backend.distribution for backend in backends() if backend.scheme == scheme])
    if not (isinstance(driver, type) and issubclass(driver, Transport)):
        raise BackendLoadError(f"the backend for {scheme}:// is no Transport: {driver!r}")
    return driver


def _with_faults(scheme: str) -> type[Transport]:
    try:
        from eventbus_core.testing.chaos import chaos_around
    except ImportError as error:
        raise BackendLoadError(f"{scheme}:// cannot be had: {error}") from error
    return chaos_around(load_backend(scheme.removeprefix(CHAOS)))


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
    if extra := _EXTRAS.get(scheme):
        return f"no backend for '{scheme}://': pip install 'eventbus[{extra}]'"
    known = sorted({backend.scheme for backend in backends()} | set(_EXTRAS))
    close = get_close_matches(scheme, known, n=1)
    hint = f"did you mean '{close[0]}://'? " if close else ""
    return f"no backend for '{scheme}://'; {hint}known: {', '.join(f'{name}://' for name in known)}"
