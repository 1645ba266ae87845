"""The groups of a channel layer, without Django Channels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.integrations import channel_buffers
from eventbus_core.integrations.channel_buffers import ChannelGroups

EXPIRY = 10.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0.0, 2 * EXPIRY)), min_size=1))
def test_a_member_leaves_in_time_and_its_group_with_the_last(added: list[tuple[str, str, float]]) -> None:
    """Whether a group gets messages or not; the next addition names the groups that have no member left."""
    now, until = 0.0, dict[tuple[str, str], float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_buffers, "time", SimpleNamespace(monotonic=lambda: now))
        groups = ChannelGroups(EXPIRY)
        for group, channel, pause in added:
            now += pause
            until[group, channel] = now + EXPIRY
            groups.add(group, channel)
            if group == "a":  # it gets messages
                assert set(groups.members(group)) == {x for (g, x), end in until.items() if g == group and end > now}
        now += EXPIRY
        left = set(groups.add("last", "x"))
        assert left <= {group for group, _, _ in added}
        assert set(groups._until) == {"last"}
        assert groups.members("a") == []
