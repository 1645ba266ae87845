"""
A griffe extension for the site: makes links of the Sphinx roles in docstrings, and shows derived methods as methods.

A member of the class that the docstring belongs to, or a public name, links to its place on an API page; any other
name is shown as code.

A method that is derived from one of another class, as in ``send = waits(OpenBus.send)``, gets the signature and the
docstring of that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import griffe

import eventbus
from eventbus_core import backend, errors

ROLE: Final = re.compile(r":\w+:`([\w.]+)`")
DERIVED: Final = re.compile(r"(?:waits|carried)\((\w+)\.(\w+)\)")
LITERAL: Final = re.compile(r"^::\n", re.MULTILINE)  # Markdown needs no sign before an indented block
PUBLIC: Final = {
    name: f"{module.__name__}.{name}"
    for module in (backend, eventbus, errors)  # errors last: that page describes them
    for name in getattr(module, "__all__", vars(module))
}


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite those of *pkg*."""
        for item in list(_objects(pkg)):
            if isinstance(item, griffe.Attribute) and (derived := DERIVED.fullmatch(str(item.value))):
                _derive(item, *derived.groups())
        for item in _objects(pkg):
            if item.docstring is not None:
                text = LITERAL.sub("", item.docstring.value)
                item.docstring.value = ROLE.sub(lambda role, item=item: _link(role[1], item), text)


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _derive(item: griffe.Attribute, owner: str, name: str) -> None:
    """Put a method like that of *owner* in the place of *item*."""
    kind = item.module.members[owner]
    model = (kind.final_target if isinstance(kind, griffe.Alias) else kind).all_members[name]
    method = griffe.Function(item.name, parameters=model.parameters, returns=model.returns, lineno=item.lineno)
    if model.docstring is not None:
        method.docstring = griffe.Docstring(model.docstring.value, parser=model.docstring.parser, parent=method)
    item.parent.set_member(item.name, method)


def _link(name: str, item: griffe.Object) -> str:
    first, dot, rest = name.partition(".")
    for scope in (item, item.parent):
        if isinstance(scope, griffe.Class) and first in scope.all_members:
            return f"[`{name}`][{scope.all_members[first].path}{dot}{rest}]"
    if first in PUBLIC:
        return f"[`{name}`][{PUBLIC[first]}{dot}{rest}]"
    return f"`{name}`"
