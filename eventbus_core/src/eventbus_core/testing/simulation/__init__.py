"""The parts of the conformance suite: a reference model, generated operations, faults."""
