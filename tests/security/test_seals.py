"""Seals, without a bus: what opens, what does not, and what is never shown."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus_core.errors import ConfigurationError, FrameError, OptionError
from eventbus_core.model.secrets import MIN_SECRET, Secrets
from eventbus_core.options import BusOptions, parse_options
from eventbus_core.wrappers.seal import SEAL_SIZE, UNSEALED, WRONG_SEAL, Seals, context_of

OLD, NEW, FOREIGN = "o" * MIN_SECRET, "n" * MIN_SECRET, "f" * MIN_SECRET
PLACE = context_of("frame", "n:one")
FORMS = pytest.mark.parametrize("encrypt", [False, True], ids=["authenticated", "encrypted"])


def seals(*secrets: str, encrypt: bool, namespace: str = "default") -> Seals:
    return Seals(Secrets.parse(list(secrets)), namespace, encrypt=encrypt)


def kind_of_fault(of: Seals, sealed: bytes, context: bytes = PLACE) -> str:
    with pytest.raises(FrameError) as caught:
        of.open(context, sealed)
    return caught.value.kind


@FORMS
@given(content=st.binary(max_size=300), data=st.data())
def test_what_was_sealed_opens_and_nothing_else_does(encrypt: bool, content: bytes, data: st.DataObject) -> None:
    """Any one bit turned, any byte cut off or added, any other place: each is rejected."""
    one, other = seals(OLD, encrypt=encrypt), seals(OLD, encrypt=encrypt)
    sealed = one.seal(PLACE, content)
    assert len(sealed) <= len(content) + SEAL_SIZE
    assert other.open(PLACE, sealed).content == content
    place, bit = data.draw(st.integers(0, len(sealed) - 1)), 1 << data.draw(st.integers(0, 7))
    turned = sealed[:place] + bytes([sealed[place] ^ bit]) + sealed[place + 1 :]
    assert kind_of_fault(other, turned) == (UNSEALED if place < 2 else WRONG_SEAL)
    kept = data.draw(st.integers(0, len(sealed) - 1))
    assert kind_of_fault(other, sealed[:kept]) in (UNSEALED, WRONG_SEAL)
    assert kind_of_fault(other, sealed + b"\0") == WRONG_SEAL
    for context in (context_of("frame", "n:two"), context_of("frame", "n:one", ""), context_of("entry", "n:one")):
        assert kind_of_fault(other, sealed, context) == WRONG_SEAL


@FORMS
def test_another_secret_namespace_or_form_does_not_open(encrypt: bool) -> None:
    sealed = seals(OLD, encrypt=encrypt).seal(PLACE, b"x")
    for other in (
        seals(FOREIGN, encrypt=encrypt),
        seals(OLD, encrypt=encrypt, namespace="staging"),
        seals(OLD, encrypt=not encrypt),
    ):
        assert kind_of_fault(other, sealed) == WRONG_SEAL


@FORMS
def test_the_first_secret_seals_and_all_open(encrypt: bool) -> None:
    """Each step of a rotation works with the step before it, in both directions."""
    steps = [seals(*secrets, encrypt=encrypt) for secrets in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])]
    for before, after in pairwise(steps):
        assert after.open(PLACE, before.seal(PLACE, b"x")).content == b"x"
        assert before.open(PLACE, after.seal(PLACE, b"y")).content == b"y"
        assert after.marks[0] in before.marks
        assert before.marks[0] in after.marks
    assert kind_of_fault(steps[3], steps[0].seal(PLACE, b"x")) == WRONG_SEAL


def test_encryption_hides_content_and_names_and_repeats_no_nonce() -> None:
    one, other = seals(OLD, encrypt=True), seals(OLD, encrypt=True)
    sealed = [each.seal(PLACE, b"attack at dawn") for each in (one, other) for _ in range(100)]
    assert not any(b"dawn" in each for each in sealed)
    assert len({each[15:39] for each in sealed}) == len(sealed)
    assert one.hide("acme/alice") == other.hide("acme/alice")
    assert one.hide("acme/alice") != one.hide("acme/bob") != seals(NEW, encrypt=True).hide("acme/bob")
    assert "alice" not in one.hide("acme/alice")[0]
    assert seals(OLD, encrypt=False).hide("acme/alice") == ("acme/alice",)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_use_the_nonces_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    one = seals(OLD, encrypt=True)
    before = one.seal(PLACE, b"x")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert one.seal(PLACE, b"x")[15:31] != before[15:31]


def test_without_the_package_encryption_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    eventbus.connect(secret=OLD)
    with pytest.raises(ConfigurationError, match=r"pip install 'eventbus\[crypto\]'"):
        eventbus.connect(secret=OLD, encrypt=True)


def test_a_secret_is_read_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    path = os.path.join(tmp_path, "secret")
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{NEW}\n{OLD}\n")
    both = Secrets((NEW.encode(), OLD.encode()))
    assert eventbus.connect(secret_file=path)._options.secret == both
    assert eventbus.connect(f"memory://?secret_file={path}")._options.secret == both
    assert not eventbus.connect()._options.secret
    monkeypatch.setenv("EVENTBUS_SECRET", f"{NEW},{OLD}")
    assert eventbus.connect()._options.secret == both
    assert eventbus.connect(secret=[NEW, OLD.encode()])._options.secret == both
    with pytest.raises(OptionError, match="given twice"):
        eventbus.connect(secret=NEW, secret_file=path)
    with pytest.raises(OptionError, match="No such file"):
        eventbus.connect(secret_file=path + "x")
    with pytest.raises(OptionError, match="may be the secret itself") as raised:
        eventbus.connect(secret_file=NEW)
    assert NEW not in str(raised.value)
    with open(path, "w", encoding="ascii") as file:
        file.write(" \n")
    with pytest.raises(OptionError, match="is empty"):
        eventbus.connect(secret_file=path)


@pytest.mark.parametrize("value", ["tooshort", f"{OLD},tooshort", f"{OLD} {OLD}", 7, [OLD, 7], [b"x" * 31]])
def test_a_bad_secret_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(BusOptions, {"secret": value})
    assert "tooshort" not in str(caught.value)
    assert OLD not in str(caught.value)


def test_encryption_without_a_secret_is_refused() -> None:
    with pytest.raises(OptionError, match="EVENTBUS_SECRET"):
        eventbus.connect(encrypt=True)


def test_a_secret_is_never_shown() -> None:
    for uri in ("memory://", f"memory://?secret={OLD}"):
        bus = eventbus.connect(uri) if OLD in uri else eventbus.connect(uri, secret=OLD)
        for thing in (bus, bus._options, bus._options.secret, bus._node.transport, bus._node.transport.uri):
            assert OLD not in repr(thing) + str(thing)
    with pytest.raises(OptionError) as caught:
        eventbus.connect(f"memory://?secret={OLD}", secret=OLD)
    assert OLD not in str(caught.value)
