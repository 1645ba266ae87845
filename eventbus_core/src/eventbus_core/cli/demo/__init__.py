"""
``eventbus demo``: the main job as a program, every delivery checked.

Each node sends numbered events to the clients of all nodes, to topics and to everyone;
each receiver checks what comes; in the end what was accepted is compared with what came.

::

    command.py     the options; from them to an exit status
    run.py         one demo: starts the nodes, watches for signals
    conductor.py   leads the nodes through its phases
    places.py      where a node runs: in this process, or in a child
    child.py       the program of a child process
    messages.py    what conductor and nodes tell each other
    node.py        one node: its bus, its clients
    sender.py      what a node sends
    plan.py        who is where, who subscribes to what          (pure)
    check.py       is a delivery the next of its stream?         (pure)
    latency.py     a histogram                                   (pure)
    tally.py       the checks of a node, and of all, added up    (pure)
    summary.py     the result for programs                       (pure)
    table.py       progress and result for people
"""
