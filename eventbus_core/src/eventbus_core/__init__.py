"""
The implementation behind ``eventbus``. This package itself exports only ``__version__``.

Applications import ``eventbus``. Backends import ``eventbus_core.backend`` and ``eventbus_core.errors``, and their
tests ``eventbus_core.testing``. ``eventbus_core.integrations`` has adapters for Prometheus and OpenTelemetry.
Every other module is private.
"""

from eventbus_core._version import __version__

__all__ = ("__version__",)
