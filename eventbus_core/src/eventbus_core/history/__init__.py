"""Retained topics: events go into the history of the broker, and readers resume from it."""
