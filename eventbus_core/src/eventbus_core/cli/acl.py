"""``eventbus acl``: the least rights that a user of the broker needs."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import attrs
import typer

from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Role, TransportURI
from eventbus_core.cli.arguments import UriArgument
from eventbus_core.errors import ConfigurationError
from eventbus_core.model.names import check_identifier
from eventbus_core.options import option_names

ACL_EXAMPLES: Final = """
Examples:

  eventbus acl redis://localhost:6379/0 --node server-1

  eventbus acl redis+cluster://localhost:7000 --node server-1 --namespace staging

  eventbus acl redis://localhost:6379/0 --role observer
"""
VISITORS: Final = "cli-*"


def acl_command(
    uri: UriArgument,
    node: Annotated[str | None, typer.Option(help="Id of the node; for a command only if its URI has node=.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of the bus; by default that of the URI.")] = None,
    role: Annotated[
        Role, typer.Option(help="What the user does: observers run nodes, clients, explain, top, tail and history.")
    ] = "node",
) -> None:
    """
    Print the least rights that a user of the broker needs, as entries of its access list.

    Nothing is connected to. Replace CHANGE-ME by a password.
    """
    parsed = TransportURI.parse(uri)
    kind = load_backend(parsed.scheme)
    known = option_names(kind.Options)
    if role == "node" and node is None:
        raise ConfigurationError("the rights of a node hold for its id: give --node, or --role observer or doctor")
    place = attrs.evolve(
        parsed,
        namespace=check_identifier("namespace", namespace or str(parsed.options.get("namespace", parsed.namespace))),
        options={name: value for name, value in parsed.options.items() if name in known},
    )
    owner = "eventbus" if node is None else check_identifier("node", node)
    user = owner if role == "node" else f"{owner}-{role}"
    for servers, rules in kind(place, "acl").access_rules(role, node or VISITORS).items():
        print("#", servers, file=sys.stderr)  # an ACL file may hold no comments
        typer.echo(f"user {user} on >CHANGE-ME {rules}")
