"""Has python-socketio's tests of AsyncManager test ours, which must serve its own clients just as that does."""

import socketio.async_manager

from eventbus_core.integrations.socketio import EventBusManager

socketio.async_manager.AsyncManager = EventBusManager
