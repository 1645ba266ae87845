"""Where an event goes: to a mailbox of this node, or to the partition that leads to its receivers."""
