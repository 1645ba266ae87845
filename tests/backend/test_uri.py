from __future__ import annotations

import re
import traceback
from contextlib import suppress
from urllib.parse import quote, urlencode

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventbus_core.backend import Address, TransportURI
from eventbus_core.errors import ConfigurationError, OptionError

SECRET = "s3cr3t-öß"  # noqa: S105 - made up

schemes = st.sampled_from(["memory", "redis", "rediss", "redis+cluster", "x-y.z"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.from_regex(r"[a-z0-9_-]{1,10}(\.[a-z0-9_-]{1,10}){0,2}", fullmatch=True)
hosts = names | st.ip_addresses().map(str) | st.just("fe80::1%eth0")
ports = st.none() | st.integers(1, 65_535)
places = st.builds(lambda port: (Address("", port),), ports) | st.lists(
    st.builds(Address, hosts, ports), min_size=1, max_size=3
).map(tuple)
option_names = st.from_regex(r"[a-z_]{1,10}", fullmatch=True)


@st.composite
def uris(draw: st.DrawFn) -> TransportURI:
    return TransportURI(
        scheme=draw(schemes),
        hosts=draw(places),
        path=draw(st.just("") | texts.map("/".__add__)),
        username=draw(st.none() | texts),
        password=draw(st.none() | texts),
        options=draw(st.dictionaries(option_names, texts, max_size=3)),
    )


def _written(uri: TransportURI) -> str:
    """The text of *uri*, its password and options included, by the rules of RFC 3986."""
    user = "" if uri.username is None else quote(uri.username, safe="")
    secret = "" if uri.password is None else ":" + quote(uri.password, safe="")
    at = "" if uri.username is None and uri.password is None else "@"
    where = ",".join(
        (f"[{quote(host, safe=':')}]" if ":" in host else host) + ("" if port is None else f":{port}")
        for host, port in uri.hosts
    )
    query = f"?{urlencode(dict(uri.options))}" if uri.options else ""
    return f"{uri.scheme}://{user}{secret}{at}{where}{quote(uri.path)}{query}"


@given(uris())
@settings(max_examples=200)
def test_a_uri_is_parsed_as_it_was_written(uri: TransportURI) -> None:
    """Every part of a URI is found again in its text, whatever characters it has."""
    if uri.username is None and uri.password is not None:
        uri = attrs.evolve(uri, username="")
    assert TransportURI.parse(_written(uri)) == uri


@given(uris())
def test_the_text_of_a_uri_leads_to_the_same_place(uri: TransportURI) -> None:
    """What str shows can be parsed again, and lacks nothing but the password and the options."""
    shown = TransportURI.parse(str(uri))
    assert attrs.evolve(shown, username=None, password=None) == attrs.evolve(
        uri, username=None, password=None, options={}
    )
    assert (shown.username or "", shown.password is None) == (uri.username or "", uri.password is None)


@given(uris())
def test_a_password_is_never_shown(uri: TransportURI) -> None:
    """Neither repr nor str of a URI, nor of one made from it, contains the password."""
    secret = attrs.evolve(uri, password=SECRET, options={**uri.options, "password": SECRET})
    for shown in (secret, attrs.evolve(secret, namespace="other"), TransportURI.parse(_written(secret))):
        for text in (str(shown), repr(shown), f"{shown}", f"{shown!r}", str({"uri": shown})):
            assert SECRET not in text
            assert quote(SECRET) not in text


@given(texts)
@settings(max_examples=200)
@example("redis://[")
@example("redis://[::1")
@example("redis://[zz]")
@example("redis://a:b:c")
@example("redis://a,,[")
@example("redis://\u2100.example")
@example("://host")
@example("")
def test_any_text_is_a_uri_or_a_configuration_error(text: str) -> None:
    """Whatever is given as a URI, nothing but ConfigurationError is raised."""
    for candidate in (text, f"redis://{text}", f"redis://host{text}", f"redis://host?{text}"):
        with suppress(ConfigurationError):
            TransportURI.parse(candidate)


@pytest.mark.parametrize(
    "text",
    [
        f"user:{SECRET}@host:6379",
        f":{SECRET}@host",
        f"redis:/user:{SECRET}@host",
        f"redis://user:{SECRET}@host:port",
        f"redis://user:{SECRET}@host:99999",
        f"redis://user:{SECRET}@[::1",
        f"redis://user:{SECRET}@[zz]",
        f"redis://user:{SECRET}@\u2100.example",
        f"redis://user:{SECRET}@host#fragment",
        f"redis://:{SECRET}",
        f"redis://user:{SECRET}",
        f"redis://user:{SECRET}@host:port/0?password={SECRET}",
        f"redis://host:port?password={SECRET}",
        f"redis://user:{SECRET}@host?a=1&a=2",
        f"redis://[zz]?password={SECRET}",
        f"host:6379?password={SECRET}",
        f"redis://host?password={SECRET}&password={SECRET}",
        f"redis://user:{SECRET}/{SECRET}@host",
        f"redis://user:1/{SECRET}@host",
        f"redis://user:1?{SECRET}@host",
        f"redis://user:1?{SECRET}={SECRET}@host",
        f"redis://user:1#{SECRET}@host",
        f"redis://user:{SECRET}/@host",
        f"redis://user:{SECRET}@host,",
        f"redis://user:{SECRET}@host,[::1",
        f"redis://user:{SECRET}@host,other:port",
        f"redis://user:{SECRET}@host,user:{SECRET}@other",
        f"{SECRET}@redis://host:port",
    ],
)
def test_a_password_is_in_no_error(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TransportURI.parse(text)
    chain = "".join(traceback.format_exception(caught.value)).replace(repr(text), "")
    raised = "\n".join(line for line in chain.splitlines() if not line.startswith("    "))  # without source lines
    assert SECRET not in raised
    assert "s3cr3t" not in raised
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "+80", "x", "6379x", "٣"])
def test_a_bad_port_is_refused(port: str) -> None:
    with pytest.raises(ConfigurationError, match="bad port after 'redis://host:': it must be a number from 1 to 65535"):
        TransportURI.parse(f"redis://host:{port}/0")
    with pytest.raises(ConfigurationError, match="bad port after 'redis://host:'"):
        TransportURI.parse(f"redis://first,host:{port},last/0")


@pytest.mark.parametrize("text", ["", "redis", "redis:", "redis:/host", "host:6379", "://host", "a b://host", "1://x"])
def test_text_without_a_scheme_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a URI: it must begin with 'scheme://'"):
        TransportURI.parse(text)


def test_an_option_given_twice_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="option 'lanes' is given twice"):
        TransportURI.parse("memory://?lanes=1&lanes=1")


def test_an_unescaped_at_sign_after_the_host_is_refused_with_a_hint() -> None:
    for text in ("redis://user:1/2@host", "redis://user:1?2@host", "redis://host/a@b"):
        with pytest.raises(ConfigurationError, match=r"%2F.*%3F.*%40"):
            TransportURI.parse(text)
    assert TransportURI.parse("redis://host/a%40b?name=c%40d").path == "/a@b"


def test_a_fragment_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigurationError, match="%23"):
        TransportURI.parse("redis://host/0#fragment")


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("redis://[::1]:6380/1", "::1", 6380, "redis://[::1]:6380/1"),
        ("redis://[2001:db8::1]", "2001:db8::1", None, "redis://[2001:db8::1]"),
        ("redis://u@[fe80::1%25eth0]:1", "fe80::1%eth0", 1, "redis://u@[fe80::1%25eth0]:1"),
    ],
)
def test_ipv6(text: str, host: str, port: int | None, shown: str) -> None:
    uri = TransportURI.parse(text)
    assert (uri.host, uri.port) == (host, port)
    assert str(uri) == shown


def test_a_uri_may_name_several_hosts() -> None:
    text = "redis+sentinel://u:***@h1:26379,[::1]:26380,h3/service/0"
    uri = TransportURI.parse(text.replace("***", "p"))
    assert uri.hosts == (("h1", 26379), ("::1", 26380), ("h3", None))
    assert (uri.username, uri.password, uri.path, str(uri)) == ("u", "p", "/service/0", text)


def test_a_backend_for_one_host_refuses_several() -> None:
    uri = TransportURI.parse("nats://u:p@h1,h2:1/0")
    for name in ("host", "port"):
        with pytest.raises(ConfigurationError, match=re.escape("nats://u:***@h1,h2:1/0 names 2 hosts; nats:// takes")):
            getattr(uri, name)


@pytest.mark.parametrize("text", ["redis://,", "redis://a,", "redis://,a", "redis://a,,b", "redis://a,:1"])
def test_a_host_that_is_missing_among_several_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a host is missing in 'redis://"):
        TransportURI.parse(text)


def test_a_login_for_each_host_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigurationError, match="once, before the first host"):
        TransportURI.parse("redis://u:p@h1,u:p@h2")


def test_parts_are_decoded_once() -> None:
    uri = TransportURI.parse("rediss://us%40er:p%2Fa%253Fss@host:1/a%20b?name=x%2By+z&empty=")
    assert (uri.scheme, uri.username, uri.password) == ("rediss", "us@er", "p/a%3Fss")
    assert uri.path == "/a b"
    assert dict(uri.options) == {"name": "x+y z", "empty": ""}
    assert str(uri) == "rediss://us%40er:***@host:1/a%20b"


def test_the_shortest_uri_has_only_a_scheme() -> None:
    assert TransportURI.parse("memory://") == TransportURI("memory")
    assert TransportURI.parse("MEMORY://name") == TransportURI("memory", hosts=(Address("name"),))


def test_a_uri_is_a_value() -> None:
    uri = TransportURI.parse("redis://:secret@host?a=1")
    assert hash(uri) == hash(TransportURI.parse("redis://:secret@host?a=1"))
    assert uri != TransportURI.parse("redis://:other@host?a=1")
    with pytest.raises(TypeError):
        uri.options["a"] = 2  # type: ignore[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        uri.host = "other"  # type: ignore[misc]


@pytest.mark.parametrize("secret", ["a[b", "a]b", "[", "[x]", "a:b", "50%"])
def test_a_password_may_hold_brackets(secret: str) -> None:
    """A bracket belongs to a host only after the login."""
    uri = TransportURI.parse(f"redis://user:{secret}@[::1]:7000/2")
    assert (uri.username, uri.password, uri.host, uri.port, uri.path) == ("user", secret, "::1", 7000, "/2")
