"""Fits a bus's options to the largest frame that its transport can carry."""

from __future__ import annotations

import attrs

from eventbus_core.backend import Transport
from eventbus_core.backend.transport import MIN_FRAME_SIZE
from eventbus_core.errors import ConfigurationError
from eventbus_core.options import BusOptions
from eventbus_core.session.wire import FRAME_OVERHEAD, MAX_ENVELOPE


def fit_options(options: BusOptions, transport: Transport) -> BusOptions:
    """
    Return *options* with frames no larger than *transport* can carry, and the default ``max_event_size`` reduced to it.

    Raises:
        ConfigurationError: the transport's ``max_frame_size`` is too small, or the ``max_event_size`` that was asked
            for is too large for it.
    """
    frame = transport.capabilities.max_frame_size
    if frame < MIN_FRAME_SIZE:
        raise ConfigurationError(
            f"max_frame_size of {type(transport).__name__} is {frame:,} bytes; a transport has to carry frames of at "
            f"least {MIN_FRAME_SIZE:,} bytes"
        )
    largest = frame - MAX_ENVELOPE
    if options.max_event_size == BusOptions().max_event_size and options.max_event_size > largest:
        options = attrs.evolve(options, max_event_size=largest)
    if options.max_event_size > largest:
        raise ConfigurationError(
            f"max_event_size is {options.max_event_size:,}; frames of {transport.uri} hold events of at most "
            f"{largest:,} bytes"
        )
    return attrs.evolve(options, frame_size=min(options.frame_size, frame - FRAME_OVERHEAD))
