"""The secrets that nodes of a namespace share: the option ``secret``, parsed and checked. No I/O."""

from __future__ import annotations

import re
from typing import Final, Self

import attrs

from eventbus_core.errors import OptionError

MIN_SECRET: Final = 32
"""Characters of the shortest secret: text such as ``openssl rand -base64 32`` prints, not a password."""
_HINT: Final = "make each with: openssl rand -base64 32"
_SEPARATORS: Final = re.compile(r"[\s,]+")


@attrs.frozen(repr=False)
class Secrets:
    """
    The secrets of a node; the first seals, all open. Never shown: not by ``repr``, in a log or in an error.

    As text, several stand with commas or white space between.
    """

    values: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """
        Return the secrets in *value*: text, or a list of texts or bytes.

        Raises:
            OptionError: it is neither, one of them is shorter than ``MIN_SECRET``, or one comes twice.
        """
        if isinstance(value, cls):
            return value
        parts = [value] if isinstance(value, str | bytes) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str | bytes) for part in parts):
            raise OptionError(f"option 'secret' is {type(value).__name__}; it must be text, or a list of texts")
        secrets = tuple(secret for part in parts for secret in _split(part))
        for secret in secrets:
            if len(secret) < MIN_SECRET:
                raise OptionError(
                    f"option 'secret' holds a secret of {len(secret)} characters; it must have at least {MIN_SECRET}: "
                    f"{_HINT}"
                )
        if len(set(secrets)) < len(secrets):
            raise OptionError(f"option 'secret' holds one secret twice; {_HINT}")
        return cls(secrets)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __repr__(self) -> str:
        return f"<{len(self.values)} secrets>" if self.values else ""


def _split(part: str | bytes) -> list[bytes]:
    if isinstance(part, bytes):
        return [part]
    return [word.encode() for word in _SEPARATORS.split(part) if word]
