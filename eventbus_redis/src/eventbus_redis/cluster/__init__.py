"""Redis Cluster: frames by sharded pub/sub, one line for each primary."""
