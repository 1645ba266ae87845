"""The four distributions: one version, ranges that hold it, light imports, and public names that are listed."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import requires, version
from types import ModuleType

import pytest

import eventbus_core

DISTRIBUTIONS = ("eventbus", "eventbus-core", "eventbus-memory", "eventbus-redis")
PUBLIC_MODULES = ("eventbus", "eventbus_core", "eventbus_memory", "eventbus_redis")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution_has_the_one_version(distribution: str) -> None:
    assert eventbus_core.__version__ == version(distribution)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_ranges_of_our_own_distributions_hold_the_present_version(distribution: str) -> None:
    major, minor, _ = eventbus_core.__version__.split(".")
    expected = f">={major}.{minor}.0,<{major}.{int(minor) + 1}"
    ours = [line for line in requires(distribution) or () if line.startswith("eventbus-")]
    found = {",".join(sorted(re.findall(r"[<>=]+[\d.]+", line.partition(";")[0]), reverse=True)) for line in ours}
    assert found <= {expected}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_lists_the_public_names_in_order(name: str) -> None:
    module = import_module(name)
    listed = module.__all__
    assert list(listed) == sorted(listed, key=lambda item: (item != item.upper(), item[0].islower(), item))
    public = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and not isinstance(value, ModuleType) and key != "annotations"
    }
    assert public == set(listed) - {"__version__"}


def test_importing_eventbus_imports_no_backend_and_no_command_line() -> None:
    loaded = run_python("import eventbus, sys; print(*sys.modules)").split()
    heavy = {"redis", "eventbus_redis", "eventbus_memory", "stevedore", "typer", "rich", "pytest", "hypothesis"}
    assert heavy.isdisjoint(loaded)


def test_a_memory_bus_needs_no_redis() -> None:
    loaded = run_python("import eventbus, sys; eventbus.connect(); print(*sys.modules)").split()
    assert "eventbus_memory" in loaded
    assert "redis" not in loaded
