"""Values and rules without I/O: events, names, topics, and reports of what was lost."""
