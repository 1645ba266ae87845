"""The bus against a model of it: programs of everything that can be done without a fault."""

from __future__ import annotations

from typing import Final

from hypothesis import Phase, example, given, settings

from eventbus_core.testing.simulation.operations import (
    Broadcast,
    Burst,
    ClaimClient,
    On,
    Open,
    Operation,
    Publish,
    programs,
)
from eventbus_core.testing.simulation.world import carry_out

# The second node sends by what it remembers, then hears from the former node, and overtakes its forwarded events.
MOVED: Final[list[Operation]] = [
    ClaimClient("n0", "bob", takeover=True),
    Burst("a", 5),
    Open("n2"),
    ClaimClient("n2", "bob", takeover=True),
]


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink])
@example(program=[Broadcast("n1", "a", include_self=False, value=None), On("n0", "a", local=False)])
@example(program=[On("n0", "*", False), Publish("n1", "a.b", as_client=False, value=None), On("n0", "a.b", False)])
@example(program=MOVED)
@given(program=programs)
async def test_g1_g2_g3_g4_g6_g7_g8_every_program_does_what_the_model_says(uri: str, program: list[Operation]) -> None:
    """Every receiver gets exactly what is for it, once, equal, unshared and in order, wherever it has moved."""
    await carry_out(uri, program)
