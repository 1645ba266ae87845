"""
``eventbus demo``: sends events between several nodes and checks every delivery.

Each node sends numbered events to the clients of all nodes, to topics and to all nodes at once. Each
receiver checks every event. At the end, the deliveries are compared with the events that the bus accepted.

::

    demo_command.py        options, output and exit status
    demo_run.py            one run: starts the nodes, handles signals
    conductor.py           leads the nodes through the phases of a run
    node_process.py        runs a node in this process or in a child process
    child_program.py       the program of a child process
    demo_messages.py       the messages between the conductor and the nodes
    demo_node.py           one node: its bus and its clients
    workloads.py           what a node sends
    plan.py                nodes, clients, topics and streams of a run     (pure)
    check.py               checks each delivery against its stream         (pure)
    latency_histogram.py   latencies                                       (pure)
    tally.py               the checks of one node, and of all, added up    (pure)
    summary.py             the result for programs                         (pure)
    demo_tables.py         progress and result for people
"""
