"""Browsers on any of several servers talk to each other; the bus finds the way."""
