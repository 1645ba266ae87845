"""
The soak: everything that comes and goes on a bus does so for a long time, and memory stays flat.

``python -m tests.soak --minutes 30 [URI]`` runs it, on ``memory://`` unless a URI is given. Let the server be one of
your own, as its connections are killed: ``python -m tests.servers python -m tests.soak --minutes 30 '{redis}'``.
"""
