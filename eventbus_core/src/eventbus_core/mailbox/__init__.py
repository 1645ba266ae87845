"""The queues of events that wait for clients and handlers of this node, and the calls of handlers."""
