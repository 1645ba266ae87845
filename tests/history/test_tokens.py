"""Tokens survive the way to an end client and back; no other text passes for one."""

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.model.tokens import MAX_TOKEN, Mark, Token, tag_of

STREAM = "#chat.room.42"
marks = st.builds(Mark, st.integers(0, 2**53), st.integers(0, 2**48 - 1))
tokens = st.builds(
    Token,
    st.just(tag_of(STREAM)),
    st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12),
    marks,
    st.none() | marks,
)


@given(tokens)
def test_a_token_comes_back_as_it_went(token: Token) -> None:
    text = str(token)
    assert Token.parse(text, STREAM) == token
    assert len(text) <= MAX_TOKEN
    assert set(text) <= set("0123456789abcdefghijklmnopqrstuvwxyz:-")


@given(st.text() | st.from_regex(r"[0-9a-z:-]{1,70}", fullmatch=True))
def test_no_text_raises(text: str) -> None:
    token = Token.parse(text, STREAM)
    assert token is None or Token.parse(str(token), STREAM) == token


@given(tokens, st.integers(0, 62), st.sampled_from("A_ é+/=%"))
def test_other_characters_make_no_token(token: Token, place: int, char: str) -> None:
    text = str(token)
    place %= len(text)
    assert Token.parse(text[:place] + char + text[place + 1 :], STREAM) is None


@given(tokens)
def test_a_token_of_another_stream_is_none(token: Token) -> None:
    assert Token.parse(str(token), "#chat.room.43") is None
