"""Runs the command line as a program, with backends that exist for one test alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

COMMAND = (sys.executable, "-m", "eventbus")
TIMEOUT = 240.0  # programs start slowly on a loaded machine


def environment(path: Path | None = None, **variables: str) -> dict[str, str]:
    """Return our environment, in which Python also finds the modules at *path*."""
    inherited = {name: value for name, value in os.environ.items() if name != "EVENTBUS_URI"}
    if path is not None:
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), inherited.get("PYTHONPATH", "")]))
    return {**inherited, "COLUMNS": "200", **variables}


def run(*arguments: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    env = environment(path, **variables)
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=TIMEOUT, env=env, check=False)


def start(*arguments: str, path: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start the command line."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment(path, **variables),
    )


def install(path: Path, distribution: str, entry_points: dict[str, str], source: str = "") -> None:
    """Put a distribution of one module, ``<distribution>_backend``, at *path*, as pip would."""
    (path / f"{distribution}_backend.py").write_text(dedent(source))
    info = path / f"{distribution}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
    lines = [f"{scheme} = {target}" for scheme, target in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[eventbus.backends]", *lines, ""]))
