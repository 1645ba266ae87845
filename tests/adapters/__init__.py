"""
The adapters for other frameworks, each on the framework's own tests and on tests of its contract.

``EVENTBUS_ADAPTERS=1 pytest tests/adapters`` needs ``pip install --group adapters`` and the package index.

::

    upstream.py          fetches a framework's source distribution, and runs its tests in a process of its own
    stand_ins/           the conftest of that process: puts our class in the place of the framework's
    test_upstream.py     compares the outcome with the list of tests that are not applicable
"""
