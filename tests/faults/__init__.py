"""
Faults on real servers: three node processes under load, every event numbered, and an account of each.

``EVENTBUS_FAULTS=short pytest tests/faults`` runs all scenarios in minutes, ``EVENTBUS_FAULTS=long`` with 20,000
events a second and longer faults; ``EVENTBUS_FAULTS_RECORD=FILE`` keeps the figures, and ``python -m
tests.faults.table FILE`` prints them as the table of docs/reliability.md.

::

    form.py        short or long: rates and durations
    journal.py     what a process sent and handled, in a file that outlives it
    node.py        the program of a node: paced load, and handlers that write the journal
    trial.py       one scenario: server, nodes, load, and the account at the end
    audit.py       the account: journals and reports in, figures out         (pure)
    proxy.py       a TCP proxy that cuts, swallows, delays and dribbles
    table.py       figures as a line, as JSON, as a table
"""
