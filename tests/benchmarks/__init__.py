"""
Benchmarks: eventbus beside its peers, every delivery checked.

::

    python -m tests.benchmarks list                         # scenarios and peers
    python -m tests.benchmarks run --smoke                  # does everything work? two minutes
    python -m tests.benchmarks run seed hot --reps 5        # measure, and record
    python -m tests.benchmarks growth                       # messages and bytes per event, from Redis' counters
    python -m tests.benchmarks join                         # many nodes in one process: CPU, frames, memory
    python -m tests.benchmarks report                       # tables and plots from what was recorded

The peers come with ``pip install --group bench``; what is not installed is left out, and said so.
Each run starts a server of its own on a free port of loopback, and one process per node.
How to read the figures: ``docs/performance.md``.

::

    cases.py       what is measured: the scenarios
    payload.py     what events carry
    ledger.py      checks what comes to a node
    peers/         one adapter a file
    sending.py     what a node sends
    worker.py      a process with one or more nodes
    brokers.py     servers, and what they count
    machine.py     the machine: its noise, its speed, versions
    measure.py     one run
    record.py      what a run found, as a line of JSON
    growth.py      how cost grows, checked against Redis' counters
    joining.py     what nodes cost that join each other, and then are idle
    report/        tables and plots
    test_guard.py  what must not get worse, in a form that noise can't fail
"""
