"""One node of a bench."""

from __future__ import annotations

import anyio

from eventbus_core.bus import Bus
from eventbus_core.cli.bench.loads import Load, sender
from eventbus_core.cli.demo.messages import Commands, Failed, Tell
from eventbus_core.cli.demo.node import DemoNode
from eventbus_core.cli.demo.plan import Plan, node_name
from eventbus_core.connect import connect
from eventbus_core.errors import EventBusError


class BenchNode(DemoNode):
    """A node of a demo that sends another *load*."""

    def __init__(self, load: Load, plan: Plan, node: int, bus: Bus, commands: Commands, tell: Tell) -> None:
        super().__init__(plan, node, bus, commands, tell)
        self._sender = sender(load, plan, node, bus)


async def run_node(load: Load, uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """
    Be the node number *node* of *plan* until told to finish, or until *commands* end.

    What eventbus raises is told as :class:`Failed`.
    """
    try:
        async with connect(uri, node=node_name(node), namespace=plan.namespace) as bus:
            await BenchNode(load, plan, node, bus, commands, tell).run()
    except* EventBusError as group:
        tell(Failed(str(_first(group))))
    except* anyio.EndOfStream:
        pass  # whoever led us is gone


def _first(group: BaseExceptionGroup[EventBusError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
