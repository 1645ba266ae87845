from __future__ import annotations

import ssl
from typing import Any, get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.api.connect_options import ConnectOptions
from eventbus_core.errors import ConfigurationError, EventBusError, InvalidName, OptionError
from eventbus_core.options import BusOptions, option, option_names, parse_options
from tests import strategies

FIELDS = attrs.fields_dict(BusOptions)
NUMBERS = {name: kind for name, kind in get_type_hints(BusOptions).items() if kind in (int, float)}


def _bounds(name: str) -> tuple[float, float]:
    least, most = FIELDS[name].metadata["minimum"], FIELDS[name].metadata["maximum"]
    return least, 1e12 if most is None else most


@st.composite
def in_bounds(draw: st.DrawFn) -> dict[str, int | float]:
    """Values that the options of a bus may have."""
    values: dict[str, int | float] = {}
    for name in draw(st.lists(st.sampled_from(sorted(NUMBERS)), unique=True, max_size=6)):
        least, most = _bounds(name)
        values[name] = draw(st.integers(int(least), int(most)) if NUMBERS[name] is int else st.floats(least, most))
    return values


def test_type_checkers_know_every_option_of_connect() -> None:
    """With the type of the option, or, where ``connect`` parses it, with what may be given."""
    ours, shown = get_type_hints(BusOptions), get_type_hints(ConnectOptions)
    assert shown.keys() == ours.keys()
    assert [name for name in ours if shown[name] != ours[name] and FIELDS[name].metadata["parse"] is None] == []


def test_every_number_has_bounds_that_hold_for_its_default() -> None:
    assert len(NUMBERS) > 10
    for name in NUMBERS:
        least, most = _bounds(name)
        assert least <= getattr(BusOptions(), name) <= most, name


def test_every_option_is_explained_in_a_sentence() -> None:
    for field in attrs.fields(BusOptions):
        assert len(field.metadata["help"].split()) >= 3, field.name


def test_without_values_all_have_their_defaults() -> None:
    assert parse_options(BusOptions, {}) == BusOptions()


@given(in_bounds())
def test_text_and_objects_of_one_meaning_give_the_same_options(values: dict[str, int | float]) -> None:
    """An option has the same value whether it comes as text from a query or as an object from a keyword."""
    from_objects = parse_options(BusOptions, values)
    assert from_objects == parse_options(BusOptions, {name: str(value) for name, value in values.items()})
    assert {name: getattr(from_objects, name) for name in values} == values


@given(st.sampled_from(sorted(NUMBERS)), st.integers(1, 10**6), st.booleans())
def test_a_value_out_of_its_bounds_is_refused(name: str, excess: int, as_text: bool) -> None:
    """Whatever lies under the least or over the most is an error that names the option, the value and the bounds."""
    least, most = _bounds(name)
    values = [least - excess] + ([most + excess] if FIELDS[name].metadata["maximum"] is not None else [])
    for value in values:
        number = int(value) if NUMBERS[name] is int else value
        given_value = str(number) if as_text else number
        with pytest.raises(OptionError) as caught:
            parse_options(BusOptions, {name: given_value})
        kind = "a whole number" if NUMBERS[name] is int else "a number"
        assert f"option {name!r} is {given_value!r}; it must be {kind} of at least {least:g}" in str(caught.value)


@given(st.sampled_from(sorted(option_names(BusOptions))), strategies.data)
def test_any_value_is_taken_or_refused_with_an_error_of_ours(name: str, value: object) -> None:
    """Nothing but EventBusError is raised, whatever an option is given, and what is taken has the right type."""
    try:
        taken = getattr(parse_options(BusOptions, {name: value}), name)
    except EventBusError:
        return
    assert type(taken) is type(getattr(BusOptions(), name)) or name == "node"


@pytest.mark.parametrize(
    "value", ["nan", float("nan"), "-inf", "", "ten", "1s", "0x10", None, True, [], b"1"], ids=repr
)
def test_a_time_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match=r"option 'lease' is .*; it must be a number of at least"):
        parse_options(BusOptions, {"lease": value})


@pytest.mark.parametrize("value", ["inf", float("inf"), 1e9], ids=repr)
def test_a_lease_ends(value: object) -> None:
    with pytest.raises(OptionError, match="at most"):
        parse_options(BusOptions, {"lease": value})


@pytest.mark.parametrize("value", ["1.5", 1.5, 64.0, True, "64 ", "x", None], ids=repr)
def test_a_count_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match=r"option 'lanes' is .*; it must be a whole number of at least 1"):
        parse_options(BusOptions, {"lanes": value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("presence", "maybe", "true or false"),
        ("namespace", 7, "text"),
        ("node", 7, "text or None"),
        ("lanes", "many", "a whole number of at least 1 and at most 65536"),
        ("max_clients", 0, "a whole number of at least 1"),
        ("lease", "ten", "a number of at least 0.1 and at most 86400"),
        ("overflow", "drop", "one of 'drop_oldest', 'drop_newest', 'close'"),
    ],
)
def test_the_error_names_in_words_the_values_that_an_option_takes(name: str, value: object, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(BusOptions, {name: value})
    assert str(caught.value) == f"option {name!r} is {value!r}; it must be {expected}"


def test_an_unknown_option_is_refused_with_the_nearest_and_all_known() -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(BusOptions, {"laens": 4})
    message = str(caught.value)
    assert message.startswith("unknown option 'laens'; did you mean 'lanes'? known options: ")
    assert all(name in message for name in option_names(BusOptions))


@given(st.text(max_size=20))
def test_a_name_is_known_or_refused(name: str) -> None:
    """An option that no field has is an OptionError, whatever it is called."""
    if name not in option_names(BusOptions):
        with pytest.raises(OptionError, match="unknown option"):
            parse_options(BusOptions, {name: "1"})


@pytest.mark.parametrize("name", ["node", "namespace"])
def test_names_among_the_options_are_checked(name: str) -> None:
    with pytest.raises(InvalidName, match=f"'a b' is not a valid {name}"):
        parse_options(BusOptions, {name: "a b"})


@attrs.frozen
class BackendOptions:
    """What a third party may write."""

    secret: str | None = attrs.field(default=None, repr=False)
    pin: int = attrs.field(default=0, repr=False)
    verify: bool = True
    context: ssl.SSLContext | None = None
    size: int = option(1, "how large it is", minimum=1, maximum=10)
    even: int = attrs.field(default=0)

    @even.validator
    def _check_even(self, attribute: attrs.Attribute[int], value: int) -> None:
        if value % 2:
            raise ValueError(f"'even' is {value}")


def test_the_value_of_a_secret_option_is_in_no_error() -> None:
    for values in ({"secret": 12345}, {"pin": "12345x"}):
        with pytest.raises(OptionError, match=r"is '\*\*\*'") as caught:
            parse_options(BackendOptions, values)
        assert "12345" not in str(caught.value)
        assert "12345" not in str(caught.value.__cause__)


def test_objects_that_only_a_keyword_can_give_are_passed_on() -> None:
    context = ssl.create_default_context()
    assert parse_options(BackendOptions, {"context": context}).context is context
    with pytest.raises(OptionError, match="option 'context' is 'x'"):
        parse_options(BackendOptions, {"context": "x"})


def test_a_value_refused_by_a_validator_is_an_option_error() -> None:
    with pytest.raises(OptionError, match="'even' is 3"):
        parse_options(BackendOptions, {"even": "3"})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_switches_are_read_from_text(text: str, value: bool) -> None:
    assert parse_options(BackendOptions, {"verify": text}).verify is value


def test_options_errors_are_configuration_errors() -> None:
    assert issubclass(OptionError, ConfigurationError)


def test_options_are_immutable() -> None:
    options: Any = BusOptions()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.lanes = 1
