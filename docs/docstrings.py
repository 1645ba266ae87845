"""
A griffe extension for the site: makes links of the Sphinx roles in docstrings.

A name that is a member of the class at hand, or public in the package, links to where an API page describes it;
any other is shown as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import griffe

ROLE: Final = re.compile(r":\w+:`([\w.]+)`")
LITERAL: Final = re.compile(r"^::\n", re.MULTILINE)  # Markdown needs no sign before an indented block


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite those of *pkg*."""
        for item in _objects(pkg):
            if item.docstring is not None:
                text = LITERAL.sub("", item.docstring.value)
                item.docstring.value = ROLE.sub(lambda role, item=item: _link(role[1], item, pkg), text)


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _link(name: str, item: griffe.Object, package: griffe.Module) -> str:
    first, dot, rest = name.partition(".")
    for scope in (item, item.parent, package):
        if first in scope.members and (scope is package or isinstance(scope, griffe.Class)):
            member = scope.members[first]
            if member.is_module and first in member.members:  # a function that hides its module
                member = member.members[first]
            return f"[`{name}`][{member.target_path if member.is_alias else member.path}{dot}{rest}]"
    return f"`{name}`"
