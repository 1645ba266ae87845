"""The conformance suite, which every backend must pass."""
