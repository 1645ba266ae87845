"""From a URI to a backend: what is installed, what is not, what is broken, and options that are wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventbus
from eventbus import (
    BackendLoadError,
    ConfigurationError,
    InvalidName,
    OptionError,
    UnknownBackendError,
    backends,
    register,
)
from eventbus_core.api import discovery
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Transport
from eventbus_memory import MemoryTransport


class Site:
    """A folder on ``sys.path`` into which distributions can be installed by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, distribution: str, schemes: dict[str, str], **modules: str) -> None:
        """Add *distribution*, which claims *schemes* by entry points, and the source of its *modules*."""
        info = self.path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        points = "".join(f"{scheme} = {target}\n" for scheme, target in schemes.items())
        (info / "entry_points.txt").write_text(f"[eventbus.backends]\n{points}")
        for name, source in modules.items():
            (self.path / f"{name}.py").write_text(source)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for each backend again, as a program that starts does."""
    monkeypatch.setattr(discovery, "_loaded", {})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


WORKING = """
from eventbus_memory import MemoryTransport
class Transport(MemoryTransport):
    pass
"""


async def test_a_third_partys_backend_is_found_by_its_scheme(site: Site) -> None:
    """An installed distribution that claims a scheme serves its URIs, with no word of it in our code."""
    site.install("eventbus-carrier-pigeon", {"pigeon": "pigeon_backend:Transport"}, pigeon_backend=WORKING)
    assert [backend for backend in backends() if backend.scheme == "pigeon"] == [
        eventbus_backend("pigeon", "eventbus-carrier-pigeon", "1.5", "pigeon_backend:Transport")
    ]
    assert "pigeon_backend" not in sys.modules, "looking what there is imports nothing"
    async with eventbus.connect("pigeon://loft", node="n0") as bus:
        await bus.emit("n")
    assert "pigeon_backend" in sys.modules


def eventbus_backend(*values: str) -> Any:
    from eventbus import Backend

    return Backend(*values)


def test_looking_for_one_backend_imports_no_other(site: Site) -> None:
    """A backend that cannot be imported harms those only who ask for it."""
    site.install("eventbus-broken", {"broken": "broken_backend:Transport"}, broken_backend="raise SystemError('no')")
    eventbus.connect("memory://")
    assert "broken_backend" not in sys.modules


def test_a_backend_that_fails_to_import_says_which_and_why(site: Site) -> None:
    """The error names the distribution and what its import raised."""
    site.install(
        "eventbus-broken", {"broken": "broken_backend:Transport"}, broken_backend="import a_module_that_is_missing"
    )
    with pytest.raises(BackendLoadError) as caught:
        eventbus.connect("broken://x")
    assert str(caught.value) == (
        "the backend for broken:// (eventbus-broken) is installed but cannot be imported: "
        "ModuleNotFoundError: No module named 'a_module_that_is_missing'"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("odd_backend:missing", "AttributeError"),
        ("odd_backend:no_class", "is no Transport: 7"),
        ("odd_backend:Other", "is no Transport"),
        ("odd_backend", "is no Transport"),
    ],
)
def test_an_entry_point_that_is_no_transport_is_refused(site: Site, target: str, reason: str) -> None:
    """What an entry point names must be a Transport class."""
    site.install("eventbus-odd", {"odd": target}, odd_backend="no_class = 7\nclass Other: pass")
    with pytest.raises(BackendLoadError, match=reason):
        eventbus.connect("odd://x")


def test_two_distributions_that_claim_one_scheme_are_both_named(site: Site) -> None:
    """Of two backends for one scheme none is taken: the error names both, and what to do."""
    site.install("eventbus-one", {"twice": "one_backend:Transport"}, one_backend=WORKING)
    site.install("eventbus-two", {"twice": "two_backend:Transport"}, two_backend=WORKING)
    with pytest.raises(BackendLoadError) as caught:
        eventbus.connect("twice://x")
    assert str(caught.value) == (
        "more than one distribution provides twice://: eventbus-one, eventbus-two; uninstall all but one"
    )


def test_backends_registered_in_the_process_come_first(site: Site) -> None:
    """``register`` goes before what is installed."""
    site.install("eventbus-one", {"registered-too": "one_backend:Transport"}, one_backend=WORKING)
    register("registered-too", MemoryTransport)
    assert load_backend("registered-too") is MemoryTransport


@pytest.mark.parametrize("uri", ["redis://localhost", "rediss+cluster://localhost", "unix:///tmp/redis.sock"])
def test_a_missing_extra_says_what_to_install(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme of ours whose distribution is not installed is answered with the command that mends it."""
    import importlib.metadata

    installed: Callable[..., importlib.metadata.EntryPoints] = importlib.metadata.entry_points

    def without_redis(**selection: Any) -> Any:
        return importlib.metadata.EntryPoints(
            point for point in installed(**selection) if not point.value.startswith("eventbus_redis")
        )

    monkeypatch.setattr(importlib.metadata, "entry_points", without_redis)
    monkeypatch.setattr(discovery, "_registered", {})
    scheme = uri.partition("://")[0]
    with pytest.raises(UnknownBackendError) as caught:
        eventbus.connect(uri)
    assert str(caught.value) == f"no backend for '{scheme}://': pip install 'eventbus[redis]'"
    assert isinstance(caught.value, LookupError)


def test_a_misspelt_scheme_of_an_installed_backend_is_corrected() -> None:
    with pytest.raises(UnknownBackendError, match=r"did you mean 'redis") as caught:
        eventbus.connect("redis+clutser://localhost")
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "ours"), [("valkey", "redis"), ("valkeys", "rediss"), ("valkey+cluster", "redis+cluster")]
)
def test_the_schemes_of_valkey_name_ours(scheme: str, ours: str) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        eventbus.connect(f"{scheme}://localhost:6379/0")
    assert str(caught.value) == f"no backend for '{scheme}://'; write '{ours}://', which reaches Valkey, too"


@pytest.mark.parametrize("uri", ["memroy://x", "kafka://x", "http://x", "x-y.z+1://h"])
def test_an_unknown_scheme_names_those_that_are_known(uri: str) -> None:
    """The error lists the schemes there are, and guesses which was meant."""
    with pytest.raises(UnknownBackendError, match=r"no backend for '.*://'; .*known: .*memory://.*redis://"):
        eventbus.connect(uri)
    with pytest.raises(UnknownBackendError, match="did you mean 'memory://'"):
        eventbus.connect("memroy://x")


@pytest.mark.parametrize("uri", ["", "memory", "memory:", "://x", "memory:/x", "localhost:6379", " ", "memory ://x"])
def test_text_that_is_no_uri_is_refused(uri: str) -> None:
    """Text without a scheme is a configuration error that says what a URI looks like."""
    with pytest.raises(ConfigurationError):
        eventbus.connect(uri)


@pytest.mark.parametrize("uri", [None, 7, b"memory://"])
def test_a_uri_is_text(uri: Any) -> None:
    """Anything but text is refused with an error of ours."""
    with pytest.raises(ConfigurationError):
        eventbus.connect(uri)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lain": 5}, r"unknown option 'lain'; did you mean 'lanes'\? known options: .*namespace"),
        ({"lanes": "many"}, "option 'lanes' is 'many'; it must be a whole number of at least 1"),
        ({"lanes": 0}, "option 'lanes' is 0"),
        ({"lanes": 70_000}, "option 'lanes' is 70000"),
        ({"lanes": None}, "option 'lanes' is None"),
        ({"lease": -1}, "option 'lease' is -1"),
        ({"lease": "nan"}, "option 'lease'"),
        ({"outbox_size": 1.5}, "option 'outbox_size' is 1.5"),
    ],
)
def test_options_that_are_unknown_or_bad_are_refused(uri: str, options: dict[str, Any], message: str) -> None:
    """One clear error names the option, its value and what it may be, wherever it was given."""
    with pytest.raises(OptionError, match=message):
        eventbus.connect(uri, **options)
    if all(isinstance(value, str) for value in options.values()):
        query = "&".join(f"{name}={value}" for name, value in options.items())
        with pytest.raises(OptionError, match=message):
            eventbus.connect(f"{uri}?{query}")


def test_an_option_given_twice_is_refused(uri: str) -> None:
    """In the URI and as a keyword, or twice in the URI: the bus does not guess which was meant."""
    with pytest.raises(OptionError, match="'lanes' is given twice: in the URI and as a keyword"):
        eventbus.connect(f"{uri}?lanes=8", lanes=8)
    with pytest.raises(OptionError, match="'lanes' is given twice"):
        eventbus.connect(f"{uri}?lanes=8&lanes=8")


@pytest.mark.parametrize("name", ["", "a b", "a..b", ".a", "x" * 65, "ä", "a*", "a/b", "a\n", "@n"])
def test_names_of_nodes_and_namespaces_are_checked(uri: str, name: str) -> None:
    """A node or namespace with a name against the rules is refused before anything is opened."""
    with pytest.raises(InvalidName, match="node"):
        eventbus.connect(uri, node=name)
    with pytest.raises(InvalidName, match="namespace"):
        eventbus.connect(uri, namespace=name)


def test_a_bad_uri_with_a_password_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error shows the password of the URI that it is about."""
    for uri in (
        "memory://u:s3cret@h:port",
        "nope://u:s3cret@h",
        "memory://u:s3cret@h?lain=1",
        "memory://u:s3cret@h?lanes=x",
        "memory:/u:s3cret@h",
    ):
        with pytest.raises(ConfigurationError) as caught:
            eventbus.connect(uri)
        assert "s3cret" not in str(caught.value)


def test_a_transport_is_all_that_a_backend_must_have() -> None:
    """A class that leaves out a method of the interface cannot be made."""

    class Half(Transport):
        async def open(self) -> None: ...

    half: Any = Half
    register("half", half)
    with pytest.raises(TypeError, match="abstract"):
        eventbus.connect("half://x")
