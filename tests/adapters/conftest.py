"""Leaves these tests out unless they are asked for: they need the frameworks and the package index."""

import os

collect_ignore_glob = [] if "EVENTBUS_ADAPTERS" in os.environ else ["test_*.py"]
