"""The URI that is made of an existing client of redis-py."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.credentials import UsernamePasswordCredentialProvider

import eventbus
from eventbus import ConfigurationError
from eventbus_core.backend import Address, TransportURI
from eventbus_core.options import parse_options
from eventbus_redis import uri_of
from eventbus_redis.options import RedisOptions
from tests.support import fresh_namespace

secrets = st.none() | st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)
kinds = st.sampled_from([redis.Redis, redis.asyncio.Redis])


@given(
    kind=kinds,
    host=st.sampled_from(["localhost", "127.0.0.9", "::1", "redis.example"]),
    port=st.integers(1, 65535),
    db=st.integers(0, 20),
    username=secrets,
    password=secrets,
    pool=st.booleans(),
)
def test_the_uri_names_the_same_server_and_user(
    kind: Any, host: str, port: int, db: int, username: str | None, password: str | None, pool: bool
) -> None:
    client = kind(host=host, port=port, db=db, username=username, password=password)
    uri = TransportURI.parse(uri_of(client.connection_pool if pool else client))
    assert (uri.scheme, uri.hosts, uri.path) == ("redis", (Address(host, port),), f"/{db}")
    assert (uri.username or None, uri.password) == (username, password)


@given(kind=kinds, password=secrets)
def test_a_socket_keeps_its_path_and_database(kind: Any, password: str | None) -> None:
    uri = TransportURI.parse(uri_of(kind(unix_socket_path="/run/my redis.sock", db=3, password=password)))
    assert (uri.scheme, uri.path, uri.password) == ("unix", "/run/my redis.sock", password)
    assert parse_options(RedisOptions, uri.options).db == 3


@pytest.mark.parametrize("required", ["none", ssl.CERT_NONE])
def test_tls_settings_are_kept(required: Any) -> None:
    client = redis.asyncio.Redis(
        host="h", ssl=True, ssl_ca_certs="/etc/ca & b.pem", ssl_check_hostname=False, ssl_cert_reqs=required
    )
    uri = TransportURI.parse(uri_of(client))
    options = parse_options(RedisOptions, uri.options)
    assert uri.scheme == "rediss"
    assert (options.ssl_ca_certs, options.ssl_check_hostname, options.ssl_cert_reqs) == (
        "/etc/ca & b.pem",
        False,
        "none",
    )


@pytest.mark.parametrize(
    "client",
    [
        redis.Redis(credential_provider=UsernamePasswordCredentialProvider("u", "p")),
        redis.asyncio.Redis(connection_pool=SentinelConnectionPool("main", None)),  # type: ignore[no-untyped-call]
        redis.asyncio.Redis(ssl=True, ssl_ca_data="-----BEGIN CERTIFICATE-----"),
        redis.Redis(ssl=True, ssl_ciphers="HIGH"),
        object(),
    ],
    ids=["credential provider", "sentinel", "certificate", "ciphers", "no client"],
)
def test_settings_that_no_uri_holds_are_refused(client: object) -> None:
    with pytest.raises(ConfigurationError):
        uri_of(client)


async def test_a_bus_connects_by_the_settings_of_a_client(redis_uri: str) -> None:
    client = redis.asyncio.from_url(redis_uri)
    try:
        async with eventbus.connect(uri_of(client), namespace=fresh_namespace()) as bus:
            assert [node.id for node in await bus.nodes()] == [bus.node]
    finally:
        await client.aclose()
