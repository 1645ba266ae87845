"""The page of the gateway in a real browser: three servers, three windows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

import eventbus
import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.gateway.servers import Gateway, find_browser, gateways, until
from tests.gateway.visitor import Visitor
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
    assert [text for text in complaints if "WebSocket connection" not in text and "/events/" not in text] == []


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
    until(lambda: "Redis is unreachable" in alice.text("#banner"), "the page says so")
    alice.say("1", to="room:cats")
    alice.say("2", to="room:cats")
    redis_server.start()
    bob.gets("0", "1", "2")
    until(lambda: alice.text("#banner") == "", "all is well again")


LISTEN: Final = """
    window.heard = [];
    const source = window.source = new EventSource(`/events/${arguments[0]}`);
    for (const type of [`workspace.${arguments[0]}`, "$sys.loss"])
        source.addEventListener(type, ({data}) => heard.push(JSON.parse(data)));
"""


def test_a_page_whose_server_restarts_says_what_it_resumed_and_what_is_gone(
    driver: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    """So does an EventSource, by itself: with the id of the last event that it got."""
    retain = {"workspace.*": eventbus.Retention(events=200, seconds=600)}
    with (
        gateways(f"{redis_server.uri}?lease=2", tmp_path, count=1) as (server,),
        eventbus.connect_blocking(redis_server.uri, lease=2, retain=retain) as bus,
    ):

        def say(texts: list[str]) -> None:
            """Say to everyone what other servers would, while this one is away."""
            for text in texts:
                fields = {"id": text, "scope": "workspace", "to": "", "text": text, "sender": "bob"}
                bus.publish("workspace.acme", {"kind": "message", **fields, "node": "server-2", "at": time.time()})
            bus.flush()

        def heard() -> list[str]:
            found: list[dict[str, Any]] = alice.front().execute_script("return heard")
            return [f"lost {one['lost']}" if "lost" in one else one["data"]["text"] for one in found]

        def restarted() -> None:
            until(lambda: [node.id for node in bus.nodes()] == [bus.node], "the lease of the killed server has ended")
            server.start()
            server.wait()
            alice.on("server-1")

        alice = Page(driver, server, "acme", "alice")
        alice.front().execute_script(LISTEN, "acme")
        until(lambda: alice.front().execute_script("return source.readyState") == 1, "the stream is open")
        say(["first"])
        until(lambda: alice.texts == heard() == ["first"], "both have it")
        server.kill()
        missed = [f"{number}" for number in range(12)]
        say(missed)
        restarted()
        until(lambda: alice.texts == heard() == ["first", *missed], "both have what they missed, once")
        assert alice.notes[-1] == "Resumed 12: messages to everyone while you were away."
        server.kill()
        more = [f"more {number}" for number in range(203)]
        say(more)
        restarted()
        until(lambda: alice.texts == ["first", *missed, *more[3:]], "the page has what is kept")
        assert alice.notes[-1] == "3 missed: messages to everyone that are not kept any more."
        until(lambda: heard() == ["first", *missed, "lost 3", *more[3:]], "the stream has it too")


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


def test_the_page_shows_that_another_server_died(fleet: list[Gateway], pages: tuple[Page, Page, Page]) -> None:
    alice, _, carol = pages
    until(lambda: "person:bob" in alice.targets(), "alice sees bob")
    fleet[1].kill()
    until(lambda: "server-2 (no answer)" in alice.text("#people"), "the list says so")
    until(lambda: "server-2 does not answer" in alice.text("#messages .note"), "the messages say so")
    until(lambda: "no answer" in map_texts(carol), "the map says so")
    until(lambda: "server-2 (no answer)" not in alice.text("#people"), "it is not shown for good")


def test_people_on_other_servers_stay_on_the_page_while_redis_is_unreachable(
    redis_server: RedisServer, pages: tuple[Page, Page, Page]
) -> None:
    alice = pages[0]
    until(lambda: {"person:bob", "person:carol"} <= set(alice.targets()), "alice sees all")
    redis_server.kill()
    until(lambda: "Redis is unreachable" in alice.text("#banner"), "the page says so")
    states = """
        window.seen = 0;
        const counter = document.querySelector("#stat-accepted dd");
        new MutationObserver(() => seen++).observe(counter, {childList: true});
    """
    alice.front().execute_script(states)
    until(lambda: alice.front().execute_script("return seen") >= 12, "twelve states came, in some 6 s")
    assert {"person:bob", "person:carol"} <= set(alice.targets())
    assert "no answer" not in alice.text("#people")
    metrics = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver = alice.front()
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    bottom = "return document.getElementById('say').getBoundingClientRect().bottom"
    until(lambda: driver.execute_script(bottom) <= 800, "the form is in view below the banner")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def map_texts(page: Page) -> list[str]:
    script = "return [...document.querySelectorAll('#map text')].map(e => e.textContent)"
    found: list[str] = page.front().execute_script(script)
    return found


OUTSIDE: Final = """
    const inner = (element, outer) => {
        const [a, b] = [element.getBoundingClientRect(), outer.getBoundingClientRect()];
        return a.left >= b.left - 0.5 && a.right <= b.right + 0.5;
    };
    const visible = (element) => element.getClientRects().length && !element.closest(".sr, .chips, option");
    const found = [...document.querySelectorAll("body *")].filter(visible).filter((element) => {
        const box = element.getBoundingClientRect();
        const outer = element.parentElement.closest(".card, header, form");
        return box.left < -0.5 || box.right > document.documentElement.clientWidth + 0.5
            || (outer && element.id !== "say" && !element.closest("svg") && !inner(element, outer));
    });
    const boxes = [...document.querySelectorAll("#map .box")];
    const texts = [...document.querySelectorAll("#map g g text")];
    const names = texts.filter((text) => !boxes.some((box) => inner(text, box)));
    return [...found, ...names].map((element) => `${element.tagName}#${element.id} ${element.textContent}`);
"""
SIZES: Final = {360: 740, 1280: 800}


@pytest.mark.parametrize("people", [3, 60])
def test_nothing_overflows_and_the_form_is_in_view(driver: Any, three: list[Gateway], people: int) -> None:
    workspace = f"crowd-{people}"
    rooms = [f"{'a-rather-long-room-name' if number % 2 else 'r'}{number}"[:24] for number in range(12)]
    with ExitStack() as stack:
        for number in range(people - 1):
            name = f"person-{number:02}".ljust(24 if number % 5 == 0 else 9, "w")
            visitor = Visitor(three[number % 3], workspace, name, *rooms[number % 2 :: 2], "lobby")
            stack.enter_context(visitor)
        page = Page(driver, three[0], workspace, "alice", *rooms[:5])
        until(lambda: len([to for to in page.targets() if to.startswith("person:")]) == people - 1, "alice sees all")
        page.say("w" * 300, to="workspace:")
        page.say("many words " * 30, to="workspace:")
        try:
            for width, height in SIZES.items():
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                fits(driver, width)
                assert len(page.targets()) == people + 5, "all people and rooms are still shown"
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width
                driver.execute_script("scrollTo(0, 0)")
                bottom = driver.execute_script("return document.getElementById('say').getBoundingClientRect().bottom")
                assert bottom <= height
        finally:
            driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def fits(driver: Any, width: int) -> None:
    """Wait until the window is *width* pixels wide and all of it is in its place."""
    page = "return document.documentElement.clientWidth"  # without a scroll bar
    until(lambda: width - 20 < driver.execute_script(page) <= width, f"the window is {width} px wide")
    outside: list[str] = []

    def all_inside() -> bool:
        outside[:] = driver.execute_script(OUTSIDE)
        return not outside

    try:
        until(all_inside, f"all fits at {width} px")
    except AssertionError:
        raise AssertionError(f"outside at {width} px: {outside}") from None
