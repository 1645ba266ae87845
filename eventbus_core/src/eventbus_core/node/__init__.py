"""One node: the layers put together, opened, run and closed."""
