"""
Fuzzing what takes in bytes of others: the wire codec, and a node behind it.

``python -m tests.fuzz [--frames N] [--seed S]`` feeds mutated frames, a million unless told otherwise;
``python -m tests.fuzz.guided`` does so guided by coverage, if atheris is installed (dependency group ``fuzz``).
"""
