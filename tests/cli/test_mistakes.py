"""Each mistake on the command line leads to one clear error, with the value and the remedy, and the right status."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TypeAlias

import pytest
from anyio.from_thread import start_blocking_portal

import eventbus
from eventbus_core.cli import main
from eventbus_core.cli.app import app
from tests.cli.nodes import Place, two_nodes

Row: TypeAlias = tuple[str, int, str]

DOWN = "redis://user:hunter2@127.0.0.1:1/0"
LONG = "x" * 300

# The command line, its exit status, and words of its error; EVENTBUS_URI is not set.
WITHOUT_A_BUS: list[Row] = [
    ("", 2, "Usage: eventbus"),
    ("nodez", 2, "no such command 'nodez'. Did you mean 'nodes'? see 'eventbus --help'"),
    ("--colour", 2, "no such option: --colour; see 'eventbus --help'"),
    ("--version=1", 2, "--version"),
    (DOWN, 2, "no such command 'redis://user:***@127.0.0.1:1/0'; name the bus with --uri"),
    ("send", 2, "missing argument 'CLIENT'; see 'eventbus send --help'"),
    ("send acme/alice", 2, "missing argument 'TYPE'"),
    ("publish", 2, "missing argument 'TOPIC'"),
    ("broadcast", 2, "missing argument 'TYPE'"),
    ("explain", 2, "missing argument 'CLIENT'"),
    # A bus that is not named, or named wrongly
    ("nodes", 2, "no bus is named: give its URI, such as redis://localhost:6379/0, or set EVENTBUS_URI"),
    ("clients", 2, "no bus is named"),
    ("top", 2, "no bus is named"),
    ("doctor", 2, "no bus is named"),
    ("tail", 2, "no bus is named: give its URI, such as --uri redis://localhost:6379/0, or set EVENTBUS_URI"),
    ("publish order.created", 2, "such as --uri redis://"),
    ("send acme/alice chat", 2, "such as --uri redis://"),
    ("broadcast chat", 2, "such as --uri redis://"),
    ("explain acme/alice", 2, "such as --uri redis://"),
    ("nodes --uri", 2, "no bus is named"),
    ("tail --uri", 2, "--uri"),
    ("nodes ''", 2, "no bus is named"),
    ("nodes localhost", 2, "'localhost' is not a URI: it must begin with 'scheme://'"),
    ("nodes localhost:6379", 2, "'localhost:6379' is not a URI"),
    ("nodes redis:/localhost/0", 2, "did you mean 'redis://localhost/0'?"),
    ("nodes redis:localhost", 2, "did you mean 'redis://localhost'?"),
    ("demo memory:", 2, "did you mean 'memory://'?"),
    ("nodes 'redis://a b'", 2, "redis://a%20b"),
    ("nodes redis://localhost:port", 2, "bad port after 'redis://localhost:'"),
    ("nodes redis://localhost:99999", 2, "it must be a number from 1 to 65535"),
    ("nodes redis://[::1", 2, "bad host in 'redis://[::1'"),
    ("nodes redis://localhost/zero", 2, "zero"),
    ("nodes redis://u:se#cret@localhost", 2, "write / ? # in a password as %2F %3F %23"),
    ("nodes redsi://localhost", 2, "did you mean 'redis://'?"),
    ("nodes kafka://localhost", 2, "no backend for 'kafka://'"),
    ("demo memori://", 2, "did you mean 'memory://'?"),
    ("bench memori://", 2, "did you mean 'memory://'?"),
    ("doctor memori://", 2, "did you mean 'memory://'?"),
    ("demo memory://?bogus=1", 2, "unknown option 'bogus'"),
    ("demo 'memory://?leas=5'", 2, "did you mean 'lease'?"),
    ("demo 'memory://?lanes=many'", 2, "option 'lanes' is 'many'"),
    ("demo 'memory://?lease=0'", 2, "option 'lease' is"),
    ("demo 'memory://?lease=5&lease=6'", 2, "option 'lease' is given twice"),
    ("nodes 'redis://localhost?node=a b'", 2, "'a b' is not a valid node"),
    ("nodes 'redis://localhost?namespace=a/b'", 2, "'a/b' is not a valid namespace"),
    ("nodes rediss://localhost?ssl_ca_certs=/no/such/file", 2, "/no/such/file"),
    ("nodes memory://", 2, "exists within one process, and this command is another process; name a broker"),
    ("clients memory://", 2, "name a broker, such as redis://localhost:6379/0"),
    ("explain acme/alice --uri memory://", 2, "name a broker"),
    ("top memory://", 2, "name a broker"),
    ("tail --uri memory://", 2, "name a broker"),
    ("publish order.x --uri memory://", 2, "name a broker"),
    ("send acme/alice a --uri memory://", 2, "name a broker"),
    ("broadcast a --uri memory://", 2, "name a broker"),
    # A broker that is not there
    (f"nodes {DOWN}", 2, "redis://user:***@127.0.0.1:1/0 cannot be reached"),
    (f"nodes --uri {DOWN}", 2, "cannot be reached"),
    (f"nodes --uri={DOWN}", 2, "cannot be reached"),
    (f"clients --uri {DOWN}", 2, "cannot be reached"),
    (f"top --uri {DOWN}", 2, "cannot be reached"),
    (f"drain --uri {DOWN} server-1", 2, "cannot be reached"),
    (f"drain --over 3 --uri={DOWN} server-1 --json", 2, "cannot be reached"),
    (f"explain acme/alice --uri {DOWN}", 2, "cannot be reached"),
    (f"tail --uri {DOWN}", 2, "cannot be reached"),
    (f"publish order.x --uri {DOWN}", 2, "cannot be reached"),
    (f"send acme/alice a --uri {DOWN}", 2, "cannot be reached"),
    (f"broadcast a --uri {DOWN}", 2, "cannot be reached"),
    (f"demo --seconds 0.1 {DOWN}", 2, "cannot be reached"),
    (f"nodes {DOWN}?wait_for_broker=false", 2, "cannot be reached"),
    ("nodes unix:///no/such/socket", 2, "/no/such/socket"),
    # The URI in the wrong place
    (
        f"explain {DOWN} acme/alice",
        2,
        "redis://user:***@127.0.0.1:1/0 is a URI, but a CLIENT must stand there; add --uri",
    ),
    (f"publish {DOWN} order.x", 2, "but a TOPIC must stand there; add --uri"),
    (f"send {DOWN} acme/alice a", 2, "but a CLIENT must stand there"),
    (f"send acme/alice {DOWN} a", 2, "but a TYPE must stand there"),
    (f"broadcast {DOWN} a", 2, "but a TYPE must stand there"),
    (f"tail {DOWN}", 2, "but a PATTERN must stand there"),
    (f"tail --client {DOWN}", 2, "but a CLIENT must stand there"),
    (f"nodes redis://a {DOWN}", 2, "(redis://user:***@127.0.0.1:1/0); name the bus with --uri"),
    (f"explain a {DOWN} --uri redis://b", 2, "redis://user:***@127.0.0.1:1/0"),
    ("explain redis://u:se#cret@host acme/alice", 2, "is a URI, but a CLIENT must stand there"),
    # Names
    ("explain acme/", 2, "'acme/' is not a valid client: it must be 'name' or 'tenant/name'"),
    ("explain a/b/c", 2, "'a/b/c' is not a valid client"),
    ("explain 'a b'", 2, "'a b' is not a valid client"),
    ("explain @server-1", 2, "'@server-1' is not a valid client"),
    ("explain ''", 2, "'' is not a valid client"),
    (f"explain {LONG}", 2, "is not a valid client"),
    ("send acme/ a", 2, "'acme/' is not a valid client"),
    ("send '@a b' a", 2, "'a b' is not a valid node"),
    ("send '#order.created' a", 2, "it is the address of a topic; publish to 'order.created' instead"),
    ("send '*' a", 2, "'*' is not a valid client: it is the address of everyone; use broadcast instead"),
    ("send acme/alice 'a b'", 2, "'a b' is not a valid topic or event type"),
    ("send acme/alice order.*", 2, "'order.*' is not a valid topic or event type"),
    ("send acme/alice $sys.loss", 2, "'$sys.loss' is not a valid topic or event type: those that begin with $ are"),
    ("publish order.*", 2, "'order.*' is not a valid topic or event type"),
    ("publish order..x", 2, "'order..x' is not a valid topic or event type: no token between the dots may be empty"),
    ("publish ''", 2, "'' is not a valid topic or event type"),
    ("broadcast 'a b'", 2, "'a b' is not a valid topic or event type"),
    ("tail order.*.>.x", 2, "'order.*.>.x' is not a valid pattern: '>' may only be the last token"),
    ("tail order*", 2, "'order*' is not a valid pattern: a wildcard must be a whole token"),
    ("tail acme/alice", 2, "it looks like a client; to see its events, use --client acme/alice"),
    ("tail @server-1", 2, "it looks like a node"),
    ("tail --client acme/", 2, "'acme/' is not a valid client"),
    (f"tail --takeover --uri {DOWN}", 2, "name it with --client CLIENT"),
    (f"clients --node 'a b' {DOWN}", 2, "'a b' is not a valid node"),
    # Data in place of the type, and data that is not JSON
    ("""send acme/alice '{"a":1}'""", 2, """'{"a":1}' looks like data, but the TYPE must stand before the data"""),
    ("send acme/alice '[1]'", 2, "looks like data"),
    ("""publish '{"a":1}'""", 2, "but the TOPIC must stand before the data"),
    ("""broadcast '"hi"'""", 2, "but the TYPE must stand before the data"),
    (
        f"publish order.x '{{' --uri {DOWN}",
        2,
        "'{' is not JSON: Input data was truncated; to send it as text, add --text",
    ),
    (f"publish order.x hello --uri {DOWN}", 2, "'hello' is not JSON"),
    (f"send acme/alice a hello --uri {DOWN}", 2, "add --text"),
    (f"publish order.x {LONG} --uri {DOWN}", 2, "is not JSON"),
    (f"publish order.x 1 2 --uri {DOWN}", 2, "unexpected extra argument"),
    # Numbers
    ("demo --nodes 0", 2, "invalid value for '--nodes': '0' is not a whole number of at least 1"),
    ("demo --nodes many", 2, "'many' is not a whole number of at least 1"),
    ("demo --clients -1", 2, "'-1' is not a whole number of at least 1"),
    ("demo --clients 1.5", 2, "'1.5' is not a whole number"),
    ("demo --seconds soon", 2, "'soon' is not a number of seconds of at least 0.1"),
    ("demo --seconds nan", 2, "'nan' is not a number of seconds"),
    ("demo --seconds inf", 2, "'inf' is not a number of seconds"),
    ("demo --seconds 0", 2, "'0' is not a number of seconds"),
    ("bench --seconds -1", 2, "'-1' is not a number of seconds"),
    ("bench --nodes", 2, "option '--nodes' requires an argument"),
    (f"top {DOWN} --interval 0", 2, "invalid value for '--interval': '0' is not a number of seconds"),
    (f"top {DOWN} --count 0", 2, "invalid value for '--count': '0' is not a whole number"),
    (f"tail --count none --uri {DOWN}", 2, "'none' is not a whole number"),
    ("tail --cuont 1", 2, "no such option: --cuont"),
    ("demo --colour", 2, "no such option: --colour; see 'eventbus demo --help'"),
    ("backends memory", 2, "unexpected extra argument"),
    ("nodes --json=yes", 2, "--json"),
]

# The same on a bus of server-1, which holds acme/alice, and server-2; EVENTBUS_URI names it.
ON_A_BUS: list[Row] = [
    ("explain acme/carol", 1, "no node holds acme/carol in namespace 'cli-"),
    ("explain acme/carol --json", 1, '"owner":null'),
    ("clients --node server-3", 1, "no live node has the id 'server-3' in namespace 'cli-"),
    ("clients --node server-3 --json", 1, "live nodes: server-1, server-2"),
    ("clients --prefix other/", 0, "no such client in namespace 'cli-"),
    ("send acme/carol chat", 1, "error: no node holds client 'acme/carol'; the event was not sent\n0 sent, 1 failed"),
    ("send @server-3 chat", 1, "error: no live node has the id 'server-3'; the event was not sent\n0 sent, 1 failed"),
    ("send @server-2 unheard.of", 1, "unheard.of for @server-2 was not handled: no handler\n0 sent, 1 failed"),
    ("send @server-2 unheard.of --json", 1, '{"sent":0,"failed":1}'),
    ("publish order.x {long} --text --uri {uri}&max_event_size=64", 1, "0 sent, 1 failed"),
    ("tail --client acme/alice", 2, "node 'server-1' holds client 'acme/alice'; to take it over, add --takeover"),
    ("nodes --uri {uri}&lanes=32", 2, "has a lane count of 64, this node has 32"),
    ("nodes --uri {uri}&node=server-1", 2, "a live node of this namespace has the id 'server-1'"),
    # Typos of the namespace and the database
    ("nodes --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin' at redis://"),
    ("nodes --json --uri {server}?namespace=stagin", 1, "check the namespace, the host and the database of the URI"),
    ("nodes --uri {other}", 1, "/9; check the namespace"),
    ("nodes --uri {server}?database=99", 2, "database"),
    ("clients --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin'"),
    ("clients --node server-1 --uri {other}", 1, "/9; check the namespace"),
    ("explain acme/alice --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin'"),
    ("top --count 1 --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin'"),
    ("send acme/alice chat --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin'"),
    ("publish order.x --uri {server}?namespace=stagin", 1, "no node is live in namespace 'stagin'"),
    ("broadcast order.x --uri {other}", 1, "0 sent, 1 failed"),
]


@pytest.fixture(scope="module")
def place(redis_uri: str) -> Iterator[Place]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(two_nodes(redis_uri)) as place:
        yield place


def run_here(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    """Run *line* in this process; return its exit status, and its output on both streams."""
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    shown = capsys.readouterr()
    return ended.value.code, shown.out + shown.err


@pytest.mark.parametrize(("line", "status", "words"), WITHOUT_A_BUS, ids=[row[0][:60] for row in WITHOUT_A_BUS])
def test_a_mistake_is_one_clear_error(
    line: str, status: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENTBUS_URI", raising=False)
    code, shown = run_here(line, capsys)
    assert (code, words in shown) == (status, True), shown
    assert "hunter2" not in shown
    assert "Traceback" not in shown
    if line:
        assert shown.count("\n") == 1
        assert shown.startswith("error: ")


@pytest.mark.parametrize(("line", "status", "words"), ON_A_BUS, ids=[row[0] for row in ON_A_BUS])
def test_a_mistake_on_a_bus_names_the_place(
    place: Place,
    line: str,
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = place.uri.partition("?")[0]
    monkeypatch.setenv("EVENTBUS_URI", place.uri)
    uris = {"{long}": LONG, "{uri}": place.uri, "{server}": server, "{other}": server.removesuffix("/0") + "/9"}
    for name, uri in uris.items():
        line = line.replace(name, uri)
    code, shown = run_here(line, capsys)
    assert (code, words in shown) == (status, True), shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("command", ["", *(command.name for command in app.registered_commands)])
def test_help_is_readable_in_40_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, shown = run_here(f"{command} -h", capsys)
    assert (code, shown) == run_here(f"{command} --help", capsys)
    assert code == 0
    assert "<bool>" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_the_version_has_a_short_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("-V", capsys) == run_here("--version", capsys) == (0, f"eventbus {eventbus.__version__}\n")
