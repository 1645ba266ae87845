"""Deadlines, batches, retries and wake-ups."""
