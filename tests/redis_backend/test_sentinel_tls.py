"""Sentinels and servers that speak TLS only to clients."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from eventbus_core.backend import Frame, TransportURI, lane_partition
from eventbus_core.errors import ConfigurationError
from eventbus_redis import SentinelTransport
from tests.sentinels import SERVICE, Sentinel
from tests.servers import HOST, RedisServer, ServerError, free_port

pytestmark = pytest.mark.redis

LANE = lane_partition(3)


def certificate(folder: Path) -> dict[str, str]:
    """Make a certificate of this host, and return the settings of a server that shows it."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=redis"]
    words += ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "cert.pem"}
    return {**{name: str(folder / file) for name, file in files.items()}, "tls-auth-clients": "no"}


async def test_both_speak_tls(tmp_path: Path) -> None:
    settings = certificate(tmp_path)
    ports = free_port(), free_port()
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    for name in ("server", "sentinel"):
        (tmp_path / name).mkdir()
    server = RedisServer(tmp_path / "server", "--tls-port", str(ports[0]), *options)
    try:
        server.start()
    except ServerError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip(f"{server.program} was built without TLS")
    lines = {**settings, "tls-port": str(ports[1]), "tls-replication": "yes"}
    sentinel = Sentinel(tmp_path / "sentinel", ports[0], 1, lines=[f"{name} {value}" for name, value in lines.items()])
    with server, sentinel:
        plain = f"rediss+sentinel://{HOST}:{ports[1]}/{SERVICE}/0"
        async with SentinelTransport(TransportURI.parse(f"{plain}?ssl_ca_certs={tmp_path}/cert.pem"), "n0") as opened:
            await opened.join([LANE])
            assert await opened.publish([Frame(LANE, b"")]) == [1]
        with pytest.raises(ConfigurationError, match="certificate verify failed"):
            await SentinelTransport(TransportURI.parse(plain), "n0").__aenter__()
