"""TLS errors on the command line name the reason and the option that helps, and never suggest plain text."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus_core.cli import main
from tests.servers import RedisServer, ServerError, free_port

OPENSSL = shutil.which("openssl") or ""
pytestmark = pytest.mark.skipif(not OPENSSL, reason="openssl makes the certificates")


def openssl(directory: Path, command: str) -> None:
    """Run openssl in *directory*."""
    subprocess.run([OPENSSL, *command.split()], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a server that asks for certificates, and the folder of its certificates."""
    directory = tmp_path_factory.mktemp("tls")
    (directory / "names").write_text("subjectAltName=DNS:localhost")
    new = "req -newkey rsa:2048 -nodes"
    openssl(directory, f"{new} -x509 -keyout ca.key -out ca.pem -subj /CN=authority -days 2")
    openssl(directory, f"{new} -keyout server.key -out server.csr -subj /CN=localhost")
    signing = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names"
    openssl(directory, f"{signing} -in server.csr -out server.pem")
    port = free_port()
    files = ("--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem")
    paths = [str(directory / word) if "." in word else word for word in files]
    server = RedisServer(directory, "--tls-port", str(port), *paths)
    try:
        server.start()
    except ServerError as error:
        pytest.skip(f"this server has no TLS: {error}")
    with server:
        yield port, directory


@pytest.mark.parametrize(
    ("host", "options", "status", "words"),
    [
        ("localhost", "", 2, "name the authority that signed the server's certificate with ssl_ca_certs"),
        ("127.0.0.1", "ssl_ca_certs={0}/ca.pem", 2, "connect by a name that the server's certificate holds"),
        ("localhost", "ssl_ca_certs={0}/ca.pem", 2, "give ssl_certfile and ssl_keyfile"),
        ("localhost", "ssl_ca_certs={0}/server.key", 2, "the files of the ssl_* options cannot be used"),
        ("localhost", "ssl_ca_certs={0}/ca.pem&ssl_keyfile={0}/server.key", 2, "without 'ssl_certfile'"),
        (
            "localhost",
            "ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/server.pem&ssl_keyfile={0}/server.key",
            1,
            "no node is live in namespace 'default'",
        ),
    ],
    ids=["unknown authority", "wrong host", "no client certificate", "no certificate file", "key alone", "all right"],
)
def test_a_tls_error_names_the_remedy(
    tls: tuple[int, Path], host: str, options: str, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port, directory = tls
    with pytest.raises(SystemExit) as ended:
        main(["nodes", f"rediss://{host}:{port}/0?{options.format(directory)}"])
    shown = capsys.readouterr().err
    assert (ended.value.code, words in shown) == (status, True), shown
    assert shown.count("\n") == 1
    assert "redis://" not in shown.replace("rediss://", "")
