"""Independent servers that share the partitions of a namespace."""
