"""
``eventbus bench``: how fast is the bus on this machine, with this broker?

Two runs of the machinery of :mod:`eventbus_core.cli.demo`, with every delivery checked as there:
*saturated*, in which each node sends to all clients as fast as it can, and *unloaded*, in which
one event at a time goes to another node.

::

    command.py     the options; from them to an exit status
    loads.py       what a node sends: as much as it can, or an event now and then
    node.py        one node
    places.py      where a node runs: in this process, or in a child
    table.py       progress and result for people, and for programs
"""
