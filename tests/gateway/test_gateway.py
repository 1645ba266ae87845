"""What a gateway does for those who connect, told over its websockets."""

from __future__ import annotations

import signal
import tokenize
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import eventbus
import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.gateway.servers import DEADLINE, FOLDER, Gateway, gateways, until
from tests.gateway.visitor import Visitor, turned_away
from tests.servers import RedisServer

KEPT = 200
RETAIN = {"workspace.*": eventbus.Retention(events=KEPT, seconds=600)}
JUNK: tuple[object, ...] = (None, "text", {"id": 1}, [[]])


def test_messages_arrive_where_they_should_and_nowhere_else(three: list[Gateway]) -> None:
    one, two, three_ = three
    with (
        Visitor(one, "acme", "alice", "cats") as alice,
        Visitor(two, "acme", "bob", "cats") as bob,
        Visitor(three_, "acme", "carol", "dogs") as carol,
        Visitor(one, "umbrella", "alice", "cats") as stranger,
    ):
        alice.say("for bob", "person", "bob")
        alice.say("for cats", "room", "cats")
        alice.say("for all", "workspace")
        # What was sent before these and is not there by then went nowhere else.
        carol.say("woof", "room", "dogs")
        for person in ("alice", "bob", "carol"):
            alice.say("end", "person", person)
        stranger.say("end", "workspace")
        assert alice.read("for cats", "for all", "end") == ["end", "for all", "for cats"]
        assert bob.read("for bob", "for cats", "for all", "end") == ["end", "for all", "for bob", "for cats"]
        assert carol.read("for all", "woof", "end") == ["end", "for all", "woof"]
        assert stranger.read("end") == ["end"]
        ways = {message["text"]: (message["sender"], message["node"], message["partition"]) for message in bob.messages}
        assert ways["for bob"] == ("alice", "server-1", "n:server-2")
        assert ways["for cats"][2].startswith("l:")


def test_the_sender_gets_a_receipt(three: list[Gateway]) -> None:
    with Visitor(three[0], "receipts", "alice") as alice, Visitor(three[1], "receipts", "bob"):
        accepted = alice.say("hi", "person", "bob")
        receipt = alice.next("delivered")
        assert receipt == {
            "kind": "delivered",
            "id": accepted["id"],
            "node": "server-2",
            "partition": "n:server-2",
        }


def test_nobody_reaches_another_workspace(three: list[Gateway]) -> None:
    with Visitor(three[0], "acme", "victim", "cats") as victim, Visitor(three[1], "evil", "mallory") as mallory:
        for name in ("acme/victim", "../acme/victim", "victim", "@server-1", "*", ">", "$sys", "victim\n"):
            assert mallory.asks_in_vain("say", id="x", scope="person", to=name, text="boo")
        for room in ("acme.cats", "*", ">", "../acme.cats", "cats.>", "#cats", "a b", ""):
            assert mallory.asks_in_vain("rooms", rooms=[room])
            assert mallory.asks_in_vain("say", id="x", scope="room", to=room, text="boo")
        mallory.ask("rooms", rooms=["cats"])
        mallory.ask("say", id="x", scope="room", to="cats", text="boo")
        assert mallory.next("message")["text"] == "boo"
        victim.say("end", "room", "cats")
        victim.say("end too", "person", "victim")
        assert victim.read("end", "end too") == ["end", "end too"]
        for visitor in (victim, mallory):
            people = {name for here in visitor.next("state")["servers"].values() for name in here["clients"]}
            assert people == {visitor.name}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 10_000,
        "null",
        "{}",
        '{"kind": "shout"}',
        '{"kind": "say"}',
        '{"kind": "say", "id": "1", "scope": "all", "text": "hi"}',
        '{"kind": "say", "id": "1", "scope": "workspace", "text": ""}',
        '{"kind": "say", "id": "1", "scope": "workspace", "text": 1}',
        '{"kind": "say", "id": "1", "scope": "workspace", "text": "\\ud800"}',
        '{"kind": "say", "id": "1 2", "scope": "workspace", "text": "hi"}',
        '{"kind": "say", "id": "1", "scope": "workspace", "text": "hi", "sender": "bob"}',
        '{"kind": "say", "id": "1", "scope": "workspace", "text": "%s"}' % ("x" * 2001),
        '{"kind": "rooms", "rooms": null}',
        '{"kind": "rooms", "rooms": [null]}',
        b"\xff\xfe",
        b"",
    ],
    ids=lambda text: repr(text[-50:]),
)
def test_bad_input_is_refused_and_the_connection_stays(three: list[Gateway], text: str | bytes) -> None:
    with Visitor(three[0], "bad", "eve") as eve:
        eve.send(text)
        assert eve.next("refused")["text"]
        assert eve.say("hi", "workspace")["kind"] == "accepted"
        assert eve.read("hi") == ["hi"]


def test_a_frame_that_is_far_too_large_ends_the_connection(three: list[Gateway]) -> None:
    with Visitor(three[0], "bad", "eve") as eve:
        eve.send("x" * 100_000)
        assert eve.closed()[0] == 1009


@pytest.mark.parametrize("name", ["a b", "a.b", "a*", ">", "@a", "#a", "$a", "a\n", "x" * 25, "..", "%2f", "é" * 25])
def test_a_bad_name_is_turned_away(three: list[Gateway], name: str) -> None:
    assert turned_away(three[0], "names", name) == 4000
    assert turned_away(three[0], name, "alice") == 4000
    assert turned_away(three[0], "names", "alice", name) == 4000


def test_a_position_that_is_too_long_is_turned_away(three: list[Gateway]) -> None:
    assert turned_away(three[0], "names", "alice", since="x" * 65) == 4000


@pytest.mark.parametrize("away", [-1, 61, float("nan"), float("inf")])
def test_a_bad_time_is_turned_away(three: list[Gateway], away: float) -> None:
    assert turned_away(three[0], "names", "alice", away=away) == 4000


def test_names_of_all_languages_are_welcome(three: list[Gateway]) -> None:
    with Visitor(three[0], "Büro", "Zoë") as zoë, Visitor(three[1], "Büro", "名前", "部屋") as other:
        zoë.say("hi", "person", "名前")
        other.say("hi", "room", "部屋")
        assert other.read("hi") == ["hi"]


def test_who_is_in_too_many_rooms_has_to_leave_one(three: list[Gateway]) -> None:
    rooms = [f"r{number}" for number in range(16)]
    with Visitor(three[0], "rooms", "alice", *rooms) as alice:
        assert alice.asks_in_vain("rooms", rooms=[*rooms, "more"])
        assert alice.say("hi", "room", "r0")["kind"] == "accepted"
        alice.ask("rooms", rooms=[*rooms[1:], "more"])
        assert alice.say("hi", "room", "more")["kind"] == "accepted"
        assert alice.asks_in_vain("say", id="x", scope="room", to="r0", text="hi")
    assert turned_away(three[0], "rooms", "alice", *(f"r{number}" for number in range(17))) == 4000


def test_one_who_is_not_there_is_not_written_to(three: list[Gateway]) -> None:
    with Visitor(three[0], "lonely", "alice") as alice:
        answer = alice.say("hi", "person", "nobody")
        assert (answer["kind"], answer["text"]) == ("refused", "no person here is called 'nobody'")


def test_presence_follows_who_comes_moves_and_goes(three: list[Gateway]) -> None:
    one, two, _ = three
    with Visitor(one, "presence", "alice") as alice:
        alice.sees(server_1={"alice"}, server_2=set(), server_3=set())
        with Visitor(two, "presence", "bob"):
            alice.sees(server_1={"alice"}, server_2={"bob"}, server_3=set())
            with Visitor(one, "presence", "bob"):
                alice.sees(server_1={"alice", "bob"}, server_2=set(), server_3=set())
        alice.sees(server_1={"alice"}, server_2=set(), server_3=set())


def test_a_second_connection_moves_the_client_and_ends_the_first(three: list[Gateway]) -> None:
    one, two, _ = three
    with Visitor(one, "twice", "alice") as first, Visitor(two, "twice", "alice") as second:
        assert first.closed() == (4001, "connected from elsewhere")
        second.say("hi", "person", "alice")
        assert second.read("hi") == ["hi"]


def test_who_comes_back_to_another_server_gets_what_was_sent_meanwhile(three: list[Gateway]) -> None:
    one, two, last = three
    with Visitor(last, "moving", "bob") as bob:
        with Visitor(one, "moving", "alice"):
            pass
        for number in range(10):
            assert bob.say(f"{number}", "person", "alice")["kind"] == "accepted"
        with Visitor(two, "moving", "alice") as alice:
            bob.say("9 and on", "person", "alice")
            alice.read("9 and on")
            assert [message["text"] for message in alice.messages] == [*map(str, range(10)), "9 and on"]


def test_who_comes_back_gets_what_rooms_said_meanwhile(three: list[Gateway]) -> None:
    one, two, last = three
    with Visitor(last, "back", "bob", "cats") as bob:
        bob.say("before", "room", "cats")
        with Visitor(one, "back", "alice", "cats") as alice:
            since = alice.position
        bob.say("meow", "room", "cats")
        bob.say("hello", "workspace")
        with Visitor(two, "back", "alice", "cats", away=1.0, since=since) as alice:
            assert {"meow", "hello"} <= set(alice.read("meow", "hello"))
            assert {message["text"]: message["again"] for message in alice.messages if message["text"] != "before"} == {
                "meow": True,
                "hello": False,
            }
        with Visitor(two, "back", "alice", "dogs", away=1.0, since=since) as alice:
            assert "meow" not in alice.read("hello")


def test_a_killed_server_loses_nothing(fleet: list[Gateway]) -> None:
    one, two, last = fleet
    with Visitor(last, "acme", "bob", "cats") as bob, Visitor(one, "acme", "alice", "cats") as alice:
        bob.say("first", "person", "alice")
        alice.read("first")
        one.kill()
        bob.say("to alice", "person", "alice")
        bob.say("to cats", "room", "cats")
        bob.say("to all", "workspace")
        with Visitor(two, "acme", "alice", "cats", away=1.0, since=alice.position) as again:
            assert again.read("to alice", "to cats", "to all")
            bob.say("and on", "person", "alice")
            again.read("and on")
            bob.sees(server_2={"alice"}, server_3={"bob"})


def test_who_comes_back_is_told_what_everyone_heard_and_what_is_gone(three: list[Gateway]) -> None:
    one, two, last = three
    with Visitor(last, "resumes", "bob") as bob:
        with Visitor(one, "resumes", "alice") as alice:
            bob.say("before", "workspace")
            alice.read("before")
        texts = [f"{number}" for number in range(12)]
        for text in texts:
            bob.say(text, "workspace")
        with Visitor(two, "resumes", "alice", since=alice.position) as again:
            assert (again.resumed["events"], again.resumed["reason"]) == (12, "")
            again.read(*texts)
            assert [message["text"] for message in again.messages] == texts
        for number in range(KEPT + 3):
            bob.say(f"more {number}", "workspace")
        with Visitor(one, "resumes", "alice", since=again.position) as late:
            assert (late.resumed["missed"], late.resumed["reason"]) == (3, "trimmed")
            late.read(f"more {KEPT + 2}")
            assert [message["text"] for message in late.messages] == [f"more {n}" for n in range(3, KEPT + 3)]
        with Visitor(one, "resumes", "alice", since="no position") as lost:
            assert (lost.resumed["missed"], lost.resumed["reason"]) == (0, "unknown_position")


def test_a_server_that_died_is_silent_first_and_its_people_are_shown_where_they_come_back(fleet: list[Gateway]) -> None:
    one, two, last = fleet
    with Visitor(last, "acme", "bob") as bob, Visitor(one, "acme", "alice"), Visitor(one, "acme", "carol"):
        bob.sees(server_1={"alice", "carol"}, server_2=set(), server_3={"bob"})
        one.kill()

        def silent() -> Any:
            here = bob.next("state")["servers"].get("server-1", {})
            return here.get("silent") and here

        assert set(until(silent, "server-1 is silent")["clients"]) == {"alice", "carol"}
        with Visitor(two, "acme", "alice"):
            until(lambda: set((silent() or {"clients": ()})["clients"]) == {"carol"}, "alice has left it")


def test_servers_stay_as_they_were_last_seen_while_redis_is_unreachable(
    fleet: list[Gateway], redis_server: RedisServer
) -> None:
    one, _, last = fleet
    with Visitor(last, "acme", "bob") as bob:
        bob.sees(server_1=set(), server_2=set(), server_3={"bob"})
        one.kill()
        until(lambda: bob.next("state")["servers"].get("server-1", {}).get("silent"), "server-1 is silent")
        redis_server.kill()
        until(lambda: bob.next("state")["bus"] != "open", "Redis is unreachable")
        for _ in range(12):  # 6 s, longer than a server may be silent
            servers = bob.next("state")["servers"]
            assert {node: here["silent"] for node, here in servers.items()} == {
                "server-1": True,
                "server-2": False,
                "server-3": False,
            }
        redis_server.start()
        bob.sees(server_2=set(), server_3={"bob"})


def test_a_server_that_stops_in_order_is_never_silent(fleet: list[Gateway]) -> None:
    one, _, last = fleet
    with Visitor(last, "acme", "bob") as bob:
        bob.sees(server_1=set(), server_2=set(), server_3={"bob"})
        one.stop()
        while "server-1" in (servers := bob.next("state")["servers"]):
            assert not servers["server-1"]["silent"]


def test_a_websocket_that_breaks_while_it_is_written_to_logs_nothing(fleet: list[Gateway]) -> None:
    one = fleet[0]
    with Visitor(one, "acme", "bob") as bob:
        for number in range(6):
            alice = Visitor(one, "acme", "alice")
            with suppress(OSError), alice:
                for _ in range(20):
                    alice.ask("say", id="x", scope="person", to="alice", text="x" * 2000)
                if number % 2:
                    alice.breaks()
        bob.sees(server_1={"bob"}, server_2=set(), server_3=set())
    assert "Traceback" not in one.log.read_text()


def test_a_restarted_redis_loses_nothing(fleet: list[Gateway], redis_server: RedisServer) -> None:
    one, two, _ = fleet
    with Visitor(one, "acme", "alice", "cats") as alice, Visitor(two, "acme", "bob", "cats") as bob:
        alice.say("0", "person", "bob")
        bob.read("0")
        redis_server.kill()
        for number in range(1, 5):
            assert alice.say(f"{number}", "person", "bob")["kind"] == "accepted"
            assert alice.say(f"cats {number}", "room", "cats")["kind"] == "accepted"
        redis_server.start()
        alice.say("5", "person", "bob")
        bob.read("5", *(f"cats {number}" for number in range(1, 5)))
        addressed = [message["text"] for message in bob.messages if message["scope"] == "person"]
        assert addressed == [str(number) for number in range(6)]


def test_who_joins_a_room_while_redis_is_away_talks_there_with_those_on_the_same_server(
    fleet: list[Gateway], redis_server: RedisServer
) -> None:
    one, two, _ = fleet
    with (
        Visitor(one, "acme", "alice") as alice,
        Visitor(one, "acme", "carol") as carol,
        Visitor(two, "acme", "bob", "cats") as bob,
    ):
        redis_server.kill()
        for person in (carol, alice):
            person.ask("rooms", rooms=["cats"])
            assert person.say(f"meow of {person.name}", "room", "cats")["kind"] == "accepted"
        assert alice.read("meow of alice") == ["meow of alice"]
        assert carol.read("meow of alice") == ["meow of alice", "meow of carol"]
        redis_server.start()
        assert bob.read("meow of alice") == ["meow of alice", "meow of carol"]

        def heard() -> bool:
            bob.say("purr", "room", "cats")
            alice.next("state")
            return "purr" in [message["text"] for message in alice.messages]

        until(heard, "alice hears the other servers too")


async def test_a_server_that_is_told_to_stop_drains(fleet: list[Gateway], redis_server: RedisServer) -> None:
    """What it accepted gets there; it is off the bus at once, and its lingering clients wait on another server."""
    one, two, _ = fleet
    with Visitor(two, "acme", "bob", "cats") as bob, Visitor(one, "acme", "alice", "cats") as alice:
        bob.sees(server_1={"alice"}, server_2={"bob"}, server_3=set())
        texts = [f"{number}" for number in range(50)]
        for number in texts:
            alice.ask("say", id=number, scope="person", to="bob", text=number)
            alice.ask("say", id=f"cats-{number}", scope="room", to="cats", text=f"cats {number}")
        for _ in range(100):
            assert alice.next("accepted", "refused")["kind"] == "accepted"
        assert one.stop() in {0, -signal.SIGTERM}
        assert alice.closed()[0] == 1012
        async with eventbus.connect(redis_server.uri, retain=RETAIN) as bus:
            assert "server-1" not in [node.id for node in await bus.nodes()]
            owner = await bus.locate("acme/alice")
            assert owner is None or owner.node in ("server-2", "server-3")
        bob.read(*texts, *(f"cats {text}" for text in texts))
        assert [message["text"] for message in bob.messages if message["scope"] == "person"] == texts
    assert "Traceback" not in one.log.read_text()


def test_without_redis_who_comes_is_told(fleet: list[Gateway], redis_server: RedisServer) -> None:
    redis_server.kill()
    assert turned_away(fleet[0], "acme", "alice") == 1013


def test_servers_that_start_before_redis_serve_their_own_and_find_each_other_later(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.kill()
    with (
        gateways(redis_server.uri, tmp_path, count=2) as (one, two),
        Visitor(one, "acme", "alice", "cats") as alice,
        Visitor(one, "acme", "carol", "cats") as carol,
        Visitor(two, "acme", "bob", "cats") as bob,
    ):
        assert alice.state["bus"] == "alone"
        alice.say("hi", "person", "carol")
        alice.say("meow", "room", "cats")
        assert carol.read("hi", "meow") == ["hi", "meow"]
        assert alice.say("hi", "person", "bob")["later"]
        redis_server.start()
        alice.sees(server_1={"alice", "carol"}, server_2={"bob"})
        alice.say("hello", "person", "bob")
        alice.say("purr", "room", "cats")
        assert bob.read("hello", "purr") == ["hello", "purr"]


async def test_what_others_on_the_bus_send_does_no_harm(fleet: list[Gateway], redis_server: RedisServer) -> None:
    with Visitor(fleet[0], "acme", "alice") as alice:
        async with eventbus.connect(redis_server.uri, retain=RETAIN) as bus:
            for type in ("gateway.message", "gateway.delivered", "other"):
                for data in JUNK:
                    await bus.send("acme/alice", type, data)
                    await bus.publish("workspace.acme", data)
                    await bus.broadcast("gateway.here", data)
                    await bus.broadcast("gateway.missed", data)
            await bus.flush()
        alice.say("hi", "person", "alice")
        assert alice.read("hi") == ["hi"]


def test_one_server_needs_no_redis(tmp_path: Path) -> None:
    with gateways("", tmp_path, count=1) as (one,):
        with Visitor(one, "acme", "alice", "cats") as alice, Visitor(one, "acme", "bob", "cats") as bob:
            alice.say("hi", "person", "bob")
            alice.say("meow", "room", "cats")
            assert bob.read("hi", "meow") == ["hi", "meow"]
            assert one.stop() in {0, -signal.SIGTERM}
            assert bob.closed()[0] == 1012
        assert "Traceback" not in one.log.read_text()


def test_a_server_names_what_is_wrong_with_its_uri(tmp_path: Path) -> None:
    server = Gateway("one", "reddis://127.0.0.1", tmp_path / "one.log")
    assert server.process.wait(DEADLINE) == 2
    assert "reddis://" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_the_page_comes_with_all_its_parts_and_takes_nothing_from_elsewhere() -> None:
    static = FOLDER / "gateway" / "static"
    names = {path.name for path in static.iterdir()}
    assert names == {"index.html", "style.css", "page.js", "map.js", "connection.js"}
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        for word in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{path.name}: {word}"


def test_what_a_server_does_with_its_bus_is_as_short_as_is_said() -> None:
    lines = sum(code_lines(FOLDER / "gateway" / name) for name in ("server.py", "connection.py"))
    assert 0 < lines < 180
    assert f"{lines} lines of code" in (FOLDER / "README.md").read_text(encoding="utf-8")


def code_lines(path: Path) -> int:
    """Imports included; no blank lines, comments or docstrings."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with path.open(encoding="utf-8") as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    code = (token for token in tokens if token.type not in nothing and not token.string.startswith('"""'))
    return len({line for token in code for line in range(token.start[0], token.end[0] + 1)})
