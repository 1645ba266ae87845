"""The page of the gateway in a real browser: three servers, three windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.gateway.servers import Gateway, find_browser, until
from tests.servers import RedisServer

pytest.importorskip("selenium", reason="selenium is not installed: pip install --group browser")

from tests.gateway.browser import Page, browser

found = find_browser()
pytestmark = pytest.mark.skipif(
    found is None, reason="no chromium with its chromedriver on PATH (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    assert found is not None
    with browser(found, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """One empty window to begin with, and no complaint of the browser's at the end."""
    driver = request.getfixturevalue("driver")
    first, *others = driver.window_handles
    for window in others:
        driver.switch_to.window(window)
        driver.close()
    driver.switch_to.window(first)
    driver.get("about:blank")
    driver.get_log("browser")
    yield
    complaints = [entry["message"] for entry in driver.get_log("browser")]
    assert [text for text in complaints if "WebSocket connection" not in text] == []


@pytest.fixture
def pages(driver: Any, fleet: list[Gateway]) -> tuple[Page, Page, Page]:
    """Three people in one workspace, each on a server of their own; two of them in a room."""
    one, two, three = fleet
    return (
        Page(driver, one, "acme", "alice", "cats"),
        Page(driver, two, "acme", "bob", "cats"),
        Page(driver, three, "acme", "carol"),
    )


def test_messages_arrive_where_they_should_and_show_their_way(
    driver: Any, fleet: list[Gateway], pages: tuple[Page, Page, Page]
) -> None:
    alice, bob, carol = pages
    stranger = Page(driver, fleet[0], "umbrella", "alice", "cats")
    assert stranger.targets() == ["workspace:", "room:cats"]
    until(lambda: "person:carol" in alice.targets(), "alice sees carol")
    alice.say("for bob", to="person:bob")
    bob.gets("for bob")
    alice.say("for <b>cats</b> & co", to="room:cats")
    bob.gets("for bob", "for <b>cats</b> & co")
    alice.say("for all", to="workspace:")
    bob.gets("for bob", "for <b>cats</b> & co", "for all")
    carol.gets("for all")
    stranger.say("end", to="workspace:")
    stranger.gets("end")
    alice.gets("for bob", "for <b>cats</b> & co", "for all")
    assert bob.ways("for bob") == "server-1 → n:server-2 → server-2"
    until(lambda: alice.ways("for bob") == "✓ server-1 → n:server-2 → server-2", "alice has a receipt")
    assert alice.ways("for all").endswith(" → server-2, server-3")
    assert stranger.ways("end") == "local, on server-1"


def test_a_page_whose_server_is_killed_gets_what_was_sent_meanwhile(
    fleet: list[Gateway], pages: tuple[Page, Page, Page]
) -> None:
    alice, bob, carol = pages
    alice.say("before", to="room:cats")
    bob.gets("before")
    fleet[0].kill()
    bob.say("to alice", to="person:alice")
    bob.say("to cats", to="room:cats")
    carol.say("to all", to="workspace:")
    until(lambda: {"before", "to alice", "to cats", "to all"} <= set(alice.texts), "alice has it all")
    assert len(alice.texts) == 4
    assert alice.text("#status").startswith("alice in acme, on server-")
    until(lambda: bob.ways("to alice").startswith("✓ local, on server-2"), "bob has a receipt")


def test_the_button_drops_the_connection_and_nothing_is_lost(pages: tuple[Page, Page, Page]) -> None:
    alice, bob, _ = pages
    bob.say("0", to="person:alice")
    alice.gets("0")
    alice.press("move")
    assert "server-2" in alice.text("#banner")
    bob.say("1", to="person:alice")
    bob.say("2", to="room:cats")
    alice.on("server-2")
    until(lambda: sorted(alice.texts) == ["0", "1", "2"], "alice has what was sent meanwhile")
    bob.say("3", to="person:alice")
    until(lambda: alice.texts[3:] == ["3"], "alice goes on")
    assert alice.ways("3") == "local, on server-2"


def test_redis_restarts_and_nothing_is_lost(redis_server: RedisServer, pages: tuple[Page, Page, Page]) -> None:
    alice, bob, _ = pages
    alice.say("0", to="person:bob")
    bob.gets("0")
    redis_server.kill()
    until(lambda: "Redis is away" in alice.text("#banner"), "the page says so")
    alice.say("1", to="room:cats")
    alice.say("2", to="room:cats")
    redis_server.start()
    bob.gets("0", "1", "2")
    until(lambda: alice.text("#banner") == "", "all is well again")


def test_a_name_is_asked_for_and_the_keyboard_is_enough(driver: Any, three: list[Gateway]) -> None:
    page = Page.signing_in(driver, three[0], "acme", "zoë")
    page.on("server-1")
    page.keys("text", "hello")
    page.gets("hello")
    page.keys("room", "cats")
    until(lambda: "room:cats" in page.targets(), "zoë is in the room")


def test_a_second_window_of_the_same_person_ends_the_first(driver: Any, three: list[Gateway]) -> None:
    first = Page(driver, three[0], "twice", "alice")
    Page(driver, three[1], "twice", "alice")
    until(lambda: "another window" in first.text("#banner"), "the first window says so")


def test_who_is_in_too_many_rooms_is_told_to_leave_one(driver: Any, three: list[Gateway]) -> None:
    page = Page(driver, three[0], "rooms", "alice", *(f"r{number}" for number in range(16)))
    page.keys("room", "more")
    assert page.text("#messages .note") == "You are in 16 rooms; leave one first."
    assert "room:more" not in page.targets()
