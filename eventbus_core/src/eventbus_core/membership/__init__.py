"""Which nodes are alive, and which of them holds which client."""
