"""A directory for transports that have none: the nodes ask each other."""
