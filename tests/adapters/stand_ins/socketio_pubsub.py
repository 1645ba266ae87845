"""Has python-socketio's tests of AsyncPubSubManager test ours."""

import socketio.async_pubsub_manager

from eventbus_core.integrations.socketio import EventBusManager

socketio.async_pubsub_manager.AsyncPubSubManager = EventBusManager
