from eventbus_core.model.numbers import shared


def test_equal_numbers_are_one_object() -> None:
    """A thousand nodes of one process would else keep a million."""
    one, other = int("9" * 18), int("9" * 18)
    assert one is not other
    assert shared(one) is shared(other)
    assert shared(one) == one
