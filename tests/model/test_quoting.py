"""Any text as a part of a name."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventbus import InvalidName, quote, unquote
from eventbus_core.model.names import check_client, check_pattern, check_topic
from eventbus_core.model.quoting import MAX_QUOTED
from eventbus_core.model.topics import has_wildcard

texts = st.one_of(st.text(st.characters()), st.text(alphabet="a.*>/ %@#$", max_size=20), st.text("ab", min_size=100))


@given(text=texts)
def test_quoted_text_is_valid_wherever_a_part_is(text: str) -> None:
    quoted = quote(text)
    assert len(quoted) <= MAX_QUOTED
    assert check_client(quoted) == quoted
    check_client(f"{quoted}/{quoted}")
    check_topic(quoted)
    check_topic(f"room.{quoted}")
    check_pattern(quoted)
    assert not has_wildcard(quoted)
    assert "." not in quoted


@given(text=texts)
def test_unquote_reverses_it_while_it_fits(text: str) -> None:
    quoted = quote(text)
    if len(text.encode("utf-8", "surrogatepass")) * 3 <= MAX_QUOTED:
        assert unquote(quoted) == text
    if "%%" in quoted:
        with pytest.raises(InvalidName, match="digest"):
            unquote(quoted)
    else:
        assert unquote(quoted) == text


@given(one=texts, other=texts)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assume(one != other)
    assert quote(one) != quote(other)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("alice", "alice"),
        ("", "%"),
        ("%", "%25"),
        ("a b", "a%20b"),
        ("a.*>/@é", "a%2E%2A%3E%2F%40%C3%A9"),
        ("x" * 120, "x" * 120),
        ("x" * 300, "x" * 86 + "%%c2f093e41879e412280bfcc0ed6533e4"),
    ],
)
def test_the_form_is_the_same_in_every_version(text: str, quoted: str) -> None:
    assert quote(text) == quoted
