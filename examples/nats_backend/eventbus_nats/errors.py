"""What nats-py and the network raise, as the errors of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors

from eventbus_core.backend import TransportURI
from eventbus_core.errors import ConfigurationError, TransportUnavailable


@contextmanager
def translated(uri: TransportURI) -> Iterator[None]:
    """Raise errors of nats-py and of the network as :func:`translation` has them."""
    try:
        yield
    except (nats.errors.Error, OSError) as error:
        raise translation(uri, error) from error


def translation(uri: TransportURI, error: Exception) -> Exception:
    """Return what to raise for *error*."""
    if "authorization" in str(error).lower():  # it has no class of its own while connecting
        return ConfigurationError(f"{uri} refuses the login: {error}")
    return TransportUnavailable(f"{uri} cannot be reached or does not answer: {str(error) or type(error).__name__}")
