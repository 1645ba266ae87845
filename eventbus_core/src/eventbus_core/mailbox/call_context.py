"""The context in which the functions of handlers are called."""

from __future__ import annotations

from contextvars import Context


class CallContext:
    """
    The context that handlers were made in.

    Their functions are called in a copy, so that what one sets reaches no other event. One copy serves all calls, which
    do not nest, until something was set in it: a copy for each call would cost more than the call. A value that equals
    the one before counts as not set.

    Attributes:
        made_in: that context.
    """

    __slots__ = ("_copy", "made_in")

    def __init__(self, made_in: Context) -> None:
        self.made_in = made_in
        self._copy: Context | None = None

    def holds(self, context: Context) -> bool:
        """Return whether the values in *context* are those in which the handlers were made, and not equal ones."""
        mine = self.made_in
        return len(mine) == len(context) and all(mine.get(name, mine) is value for name, value in context.items())

    def copy(self) -> Context:
        """Return a copy in which nothing was set; call :meth:`spoil` once something was."""
        if self._copy is None:
            self._copy = self.made_in.copy()
        return self._copy

    def spoil(self) -> None:
        """Use the last copy for no further call."""
        self._copy = None


def differ(one: Context, other: Context) -> bool:
    """Return whether something was set in *one* or *other*, which were copies of the same context."""
    try:
        return one != other
    except Exception:  # by values that cannot be compared: then it is another value
        return True
