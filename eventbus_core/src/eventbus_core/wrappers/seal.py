"""
Seals: what proves that bytes come from a node with the secret, and were meant for the place where they were found.

::

    "ES"  form  key  time  tag   content        form 1: authenticated by HMAC-SHA-256, cut to 16 bytes
    2 B   u8    4 B  u64   16 B

    "ES"  form  key  time  salt  number  content and tag        form 2: encrypted by AES-256-GCM
    2 B   u8    4 B  u64   16 B  u64

All numbers are big-endian. The tag covers the head, the content and a context that does not travel: what the bytes are
(a frame, a row, an entry), and where they belong. Each secret gives a key for each namespace. *key* is a digest that
names that key; *time* is when the seal was made, in milliseconds, by the clock of the sender. With encryption, each
node derives a key of its own by *salt*, and numbers what it seals: so no nonce is used twice.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from time import time_ns
from typing import Any, Final, NamedTuple, Protocol

from eventbus_core.errors import ConfigurationError, FrameError
from eventbus_core.model.secrets import Secrets

SEAL_MAGIC: Final = b"ES"
SEAL_SIZE: Final = 64
"""Bytes that are enough for a seal."""
UNSEALED: Final = "unsealed"
WRONG_SEAL: Final = "wrong seal"
MAX_SALTS: Final = 4096

_HEAD: Final = Struct(">2sB4sQ")
_NONCE: Final = Struct(">16sQ")
_TAG_SIZE: Final = 16


class Opened(NamedTuple):
    """What a seal held, and when it was made: milliseconds since the epoch, by the clock of its node."""

    content: bytes
    at: int


class _Key(Protocol):
    form: int
    id: bytes

    def seal(self, context: bytes, content: bytes) -> Sequence[bytes]:
        """Return the parts that follow the head; *context* includes it."""

    def open(self, context: bytes, sealed: memoryview) -> bytes | None:
        """Return the content of what follows the head, or ``None`` if it is not what was sealed."""


class Seals:
    """
    Makes and opens the seals of one node.

    Attributes:
        marks: a text for each secret, which tells it and the form of its seals from others, and tells nothing else.
    """

    def __init__(self, secrets: Secrets, namespace: str, *, encrypt: bool) -> None:
        """
        *encrypt* asks for encryption too.

        Raises:
            ConfigurationError: the package ``cryptography``, which encrypts, is not installed.
        """
        kind = _Encryption if encrypt else _Authentication
        keys: list[_Key] = [kind(secret, namespace) for secret in secrets.values]
        word = "encrypted" if encrypt else "authenticated"
        self.marks: Final = tuple(f"{word}-{key.id.hex()}" for key in keys)
        self._own = keys[0]
        self._keys = {key.id: key for key in keys}
        self._name_keys = [_derive(secret, namespace, b"eventbus names") for secret in secrets.values if encrypt]

    def seal(self, context: bytes, content: bytes) -> bytes:
        """Return *content* with a seal that opens in the same *context* only."""
        key = self._own
        head = _HEAD.pack(SEAL_MAGIC, key.form, key.id, time_ns() // 1_000_000)
        return b"".join((head, *key.seal(context + head, content)))

    def open(self, context: bytes, sealed: bytes) -> Opened:
        """
        Return what was sealed.

        Raises:
            FrameError: it has no seal, or one of another secret, form or context, or was altered.
        """
        if sealed[:2] != SEAL_MAGIC:
            raise FrameError(UNSEALED, f"{len(sealed):,} bytes without a seal")
        if len(sealed) < _HEAD.size:
            raise FrameError(WRONG_SEAL, f"it ends after {len(sealed)} bytes")
        _, form, id, at = _HEAD.unpack_from(sealed)
        key = self._keys.get(id)
        if key is None:
            raise FrameError(WRONG_SEAL, f"it names the secret {id.hex()}, which this node does not have")
        if form != key.form:
            raise FrameError(WRONG_SEAL, f"its form is {form}, that of this node is {key.form}")
        content = key.open(context + sealed[: _HEAD.size], memoryview(sealed)[_HEAD.size :])
        if content is None:
            raise FrameError(WRONG_SEAL, f"{len(sealed):,} bytes that were not sealed for this place")
        return Opened(content, at)

    def hide(self, name: str) -> tuple[str, ...]:
        """
        Return what stands for *name* where everyone can read it: with encryption a digest for each secret, else itself.

        The first is the one to write.
        """
        if not self._name_keys:
            return (name,)
        return tuple(blake2b(name.encode(), key=key, digest_size=16).hexdigest() for key in self._name_keys)


class _Authentication:
    """A key by which content is authenticated, and can be read by everyone."""

    form = 1

    def __init__(self, secret: bytes, namespace: str) -> None:
        key = _derive(secret, namespace, b"eventbus seals")
        self.id = _fingerprint(key)
        self._mac = hmac.new(key, digestmod="sha256")  # twice as fast as BLAKE2b where the CPU has instructions for it

    def seal(self, context: bytes, content: bytes) -> Sequence[bytes]:
        return self._tag(context, content), content

    def open(self, context: bytes, sealed: memoryview) -> bytes | None:
        content = sealed[_TAG_SIZE:]
        right = hmac.compare_digest(sealed[:_TAG_SIZE], self._tag(context, content))
        return bytes(content) if right else None

    def _tag(self, context: bytes, content: bytes | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(context)
        mac.update(content)
        return mac.digest()[:_TAG_SIZE]


class _Encryption:
    """A key by which content is encrypted and authenticated."""

    form = 2

    def __init__(self, secret: bytes, namespace: str) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigurationError(
                f"encrypt needs the package 'cryptography', which cannot be imported ({error}); install it with: "
                f"pip install 'eventbus[crypto]'"
            ) from error
        self._cipher_class, self._wrong = AESGCM, InvalidTag
        self._key = _derive(secret, namespace, b"eventbus secret")
        self.id = _fingerprint(self._key)
        self._ciphers: dict[bytes, Any] = {}
        self._begin()

    def seal(self, context: bytes, content: bytes) -> Sequence[bytes]:
        if os.getpid() != self._process:
            self._begin()
        self._number += 1
        nonce = _NONCE.pack(self._salt, self._number)
        return nonce, self._cipher.encrypt(nonce[-12:], content, context)

    def open(self, context: bytes, sealed: memoryview) -> bytes | None:
        nonce = bytes(sealed[: _NONCE.size])
        salt = nonce[:16]
        cipher = self._ciphers.get(salt) or self._cipher_of(salt)
        try:
            content: bytes = cipher.decrypt(nonce[-12:], sealed[_NONCE.size :], context)
        except (self._wrong, ValueError):  # of a nonce or a tag that is too short
            return None
        if salt not in self._ciphers:
            if len(self._ciphers) >= MAX_SALTS:
                self._ciphers.clear()
            self._ciphers[salt] = cipher
        return content

    def _begin(self) -> None:
        """Take a new salt: two processes must not use the same numbers."""
        self._process = os.getpid()
        self._salt = os.urandom(16)
        self._number = 0
        self._cipher = self._cipher_of(self._salt)

    def _cipher_of(self, salt: bytes) -> Any:
        return self._cipher_class(blake2b(salt, key=self._key, digest_size=32, person=b"eventbus cipher").digest())


def context_of(kind: str, *place: str) -> bytes:
    """Return the context of what is of that *kind* and belongs to *place*: texts without the character NUL."""
    return "\0".join((kind, *place, "")).encode()


def _derive(secret: bytes, namespace: str, purpose: bytes) -> bytes:
    master = blake2b(secret, digest_size=32, person=b"eventbus").digest()
    return blake2b(namespace.encode(), key=master, digest_size=32, person=purpose).digest()


def _fingerprint(key: bytes) -> bytes:
    return blake2b(b"", key=key, digest_size=4, person=b"eventbus id").digest()
