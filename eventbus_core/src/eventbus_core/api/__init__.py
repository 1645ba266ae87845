"""What applications use: the bus, the handle of a client, their blocking twins, and how a URI becomes a bus."""
