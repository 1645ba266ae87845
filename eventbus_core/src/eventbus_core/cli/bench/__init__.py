"""
``eventbus bench``: measures the bus on this machine with this broker.

It makes two runs of :mod:`eventbus_core.cli.demo`, which checks every delivery: *saturated*, in which each
node sends to all clients as fast as it can, and *unloaded*, in which one event at a time goes to another node.

::

    bench_command.py   options, output and exit status
    bench_result.py    the figures of both runs, for people and for programs
"""
