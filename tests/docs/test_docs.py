"""
Runs what README.md, docs/ and examples/ show.

A fenced ``python`` block is a whole program, unless an HTML comment on the line before it says otherwise:

``<!-- fragment -->``           it runs with ``await`` at the top level, amid the names of `surroundings`
``<!-- fragment, endless -->``  likewise, and does not end by itself
``<!-- file: PATH -->``         it is a file of the folder that the page shows (of whatever language)
``<!-- output -->``             what the program above prints (a ``text`` block)
``<!-- example -->``            it is a program of ``examples/``, which the site includes

What docs/redis.md shows of a server's configuration is tried in test_redis_page.py.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Final
from urllib.parse import unquote

import anyio
import attrs
import pytest

import eventbus
from eventbus_core import errors
from eventbus_core.model.reports import Reason

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES: Final = sorted((ROOT / "examples").glob("*.py"))
REDIS: Final = "redis://localhost:6379/0"
ON_REDIS: Final = [path for path in EXAMPLES if REDIS in path.read_text(encoding="utf-8")]
TIMEOUT: Final = 240
MARKER: Final = re.compile(r"<!-- (.+) -->")
ANCHOR_DROPS: Final = re.compile(r"[^\w\- ]")
LINK: Final = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
GUARANTEES: Final = {f"G{number}" for number in range(1, 14)}


@attrs.frozen
class Block:
    """A fenced block: where it begins, and what stood on the line before it."""

    page: str
    line: int
    language: str
    marker: str
    text: str
    output: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def on_redis(self) -> bool:
        return REDIS in self.text


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    fence = marker = ""
    begin = 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if fence:
            if line == "```":
                block = Block(str(page.relative_to(ROOT)), begin, fence, marker, "\n".join(lines[begin : number - 1]))
                if marker == "output":
                    found[-1] = attrs.evolve(found[-1], output=block.text)
                else:
                    found.append(block)
                fence = marker = ""
        elif line.startswith("```"):
            fence, begin = line[3:] or "?", number
            assert fence in {"js", "python", "sh", "text", "toml"}, f"{page}:{number}: a block of what language?"
        else:
            marked = MARKER.fullmatch(line)
            marker = marked[1] if marked else ""
    assert not fence, f"{page}: a block does not end"
    return found


def with_redis(text: str, uri: str) -> str:
    """*text* with the server of the tests in the place of the one it names, in a namespace of its own."""
    ours = f"{uri}?namespace=docs-{uuid.uuid4().hex}"
    return text.replace(f"{REDIS}?", f"{ours}&").replace(REDIS, ours)


def run(*command: str, cwd: Path = ROOT) -> str:
    """What the Python program prints; it must end well, and warn of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd,
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_program(block: Block, text: str, folder: Path) -> None:
    program = folder / "program.py"
    program.write_text("\n" * block.line + text, encoding="utf-8")
    printed = run(str(program), cwd=folder)
    if block.output is not None:
        assert printed.strip() == block.output.strip()


def blocks(language: str, *markers: str) -> list[Any]:
    return [
        pytest.param(block, id=block.place)
        for page in PAGES
        for block in blocks_of(page)
        if block.language == language and block.marker in markers
    ]


PROGRAMS = blocks("python", "")
FRAGMENTS = blocks("python", "fragment", "fragment, endless")


@pytest.mark.parametrize("block", PROGRAMS)
def test_a_program_runs_and_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    run_program(block, block.text, tmp_path)


def test_the_first_program_prints_the_same_on_redis(redis_uri: str, tmp_path: Path) -> None:
    (block,) = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    assert '"memory://"' in block.text
    run_program(block, with_redis(block.text.replace("memory://", REDIS), redis_uri), tmp_path)


@asynccontextmanager
async def surroundings() -> AsyncIterator[dict[str, Any]]:
    """What fragments may use: ``bus`` with ``alice``, and another node, ``peer``, whose ``acme/bob`` answers pings."""
    async with eventbus.connect(node="server-1") as bus, eventbus.connect(node="server-2") as peer:

        async def answer(event: eventbus.Event) -> None:
            if event.type == "ping":
                await peer.reply(event, "pong")

        async with bus.client("acme/alice") as alice, peer.client("acme/bob", handler=answer):
            yield {"eventbus": eventbus, "anyio": anyio, "bus": bus, "alice": alice, "peer": peer}


async def run_fragment(block: Block, text: str) -> None:
    code = compile("\n" * block.line + text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    async with surroundings() as names:
        endless = block.marker.endswith("endless")
        with anyio.move_on_after(0.3 if endless else TIMEOUT) as scope:
            waits = FunctionType(code, names)()
            if waits is not None:
                await waits
        assert scope.cancelled_caught == endless, f"{block.place} should {'not ' * endless}end by itself"


@pytest.mark.parametrize("block", [case for case in FRAGMENTS if not case.values[0].on_redis])
async def test_a_fragment_runs(block: Block) -> None:
    await run_fragment(block, block.text)


@pytest.mark.parametrize("block", [case for case in FRAGMENTS if case.values[0].on_redis])
async def test_a_fragment_runs_on_redis(block: Block, redis_uri: str) -> None:
    await run_fragment(block, with_redis(block.text, redis_uri))


def test_every_block_is_marked_with_something_known() -> None:
    known = {"", "fragment", "fragment, endless", "example", "acl", "cluster acl", "command: demo", "command: test"}
    for page in PAGES:
        for block in blocks_of(page):
            assert block.marker in known or block.marker.startswith("file: "), f"{block.place}: {block.marker!r}?"


def files_of(page: str) -> dict[str, str]:
    """The files that *page* shows, by their paths."""
    shown = [block for block in blocks_of(ROOT / page) if block.marker.startswith("file: ")]
    return {block.marker.removeprefix("file: "): block.text + "\n" for block in shown}


def test_two_processes_talk_on_redis(redis_uri: str, tmp_path: Path) -> None:
    program = tmp_path / "talk.py"
    program.write_text(with_redis(files_of("docs/quickstart.md")["talk.py"], redis_uri), encoding="utf-8")
    with ThreadPoolExecutor(2) as pool:
        alice = pool.submit(run, str(program), "alice", "bob")
        bob = pool.submit(run, str(program), "bob", "alice")
        assert alice.result().startswith("bob says hello from")
        assert bob.result().startswith("alice says hello from")


def test_the_folder_of_a_backend_works_as_shown(tmp_path: Path) -> None:
    """Writes the files that the page shows, registers their entry points as an installation does, runs their tests."""
    page = "docs/writing-a-backend.md"
    files = files_of(page)
    tree = next(block.text for block in blocks_of(ROOT / page) if block.language == "text")
    for path, text in files.items():
        assert Path(path).name in tree, f"{path} is not in the picture of the folder"
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (project,) = tmp_path.glob("*/pyproject.toml")
    register_entry_points(project)
    # The folder is on the path of the tests, and of the processes that they start.
    start = (
        "import os, sys, pytest; os.environ['PYTHONPATH'] = sys.path[0] = os.getcwd(); "
        "sys.exit(pytest.main(['-p', 'no:asyncio']))"
    )
    assert " passed" in run("-c", start, cwd=project.parent)


def register_entry_points(project: Path) -> None:
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    name, version = metadata["name"], metadata["version"]
    installed = project.parent / f"{name.replace('-', '_')}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [
        line
        for group, points in metadata["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (installed / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


EXPECTED: Final = {
    "hello.py": [
        "acme/alice has chat.message from @server-2: {'text': 'hello, alice'}",
        "server-1 has greeting.topic from @server-2: hello, subscribers",
        "server-1 has greeting.all from @server-2: hello, all nodes",
    ],
    "rooms.py": [
        "acme/alice in room.cats: acme/alice says miaow",
        "acme/alice in room.cats: acme/alice says bye",
        "acme/bob in room.cats: acme/alice says miaow",
        "acme/bob in room.cats: acme/alice says bye",
        "acme/carol in room.dogs: acme/carol says woof",
        "acme/carol in room.cats: acme/alice says miaow",
        "acme/carol in room.cats: acme/alice says bye",
    ],
    "request_reply.py": [
        "1 + 2 + 3 = 6",
        "the answer of 'acme/calculator' to 'guess' did not arrive within 0.2 s",
        "no node holds client 'acme/oracle'; the event was not sent",
    ],
    "blocking.py": [
        "the customer has: one soup for acme/customer",
        "log.order: {'dish': 'soup'}",
    ],
    "typed_handlers.py": [
        "order 1: soup, bread",
        "order 2: tea",
        "order.created from @server-1 failed: the data of the event 'order.created' does not fit the requested type: "
        "Expected `int`, got `str` - at `$.id`",
    ],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path) -> None:
    # Two receivers print in no order between them.
    assert sorted(run(str(example)).splitlines()) == sorted(EXPECTED[example.name])


@pytest.mark.parametrize("example", ON_REDIS, ids=lambda path: path.name)
def test_an_example_runs_on_redis(example: Path, redis_uri: str) -> None:
    assert sorted(run(str(example), with_redis(REDIS, redis_uri)).splitlines()) == sorted(EXPECTED[example.name])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert f"    python examples/{example.name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= 50


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of *page*."""
    found: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= line.startswith("```")
        if not inside and (heading := re.match(r"#+ (.+)", line)):
            anchor = ANCHOR_DROPS.sub("", heading[1].lower()).replace(" ", "-")
            found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return set(found)


def links_of(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from (found[1] for found in LINK.finditer(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_a_page_can_be_found_from_the_index(page: Path) -> None:
    assert page.name == "index.md" or page.name in set(links_of(ROOT / "docs/index.md"))


def test_the_site_has_every_page() -> None:
    site = tomllib.loads((ROOT / ".zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = [page for part in site["nav"] for pages in part.values() for entry in pages for page in entry.values()]
    assert sorted(listed) == [page.name for page in PAGES[1:]]


def test_every_example_is_on_the_page_of_examples() -> None:
    shown = [block.text for block in blocks_of(ROOT / "docs/examples.md") if block.marker == "example"]
    assert sorted(shown) == [f'--8<-- "examples/{example.name}"' for example in EXAMPLES]


def test_every_example_for_a_framework_is_on_a_page() -> None:
    shown = [block.text for page in PAGES for block in blocks_of(page) if block.marker == "example"]
    for example in (ROOT / "examples/frameworks").glob("*.py"):
        assert shown.count(f'--8<-- "examples/frameworks/{example.name}"') == 1, example.name


def test_commands_name_files_that_exist() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            for name in re.findall(r"python3? ((?:docs|examples)/\S+\.py)", block.text):
                assert (ROOT / name).exists(), f"{block.place}: {name}"


def test_commands_of_eventbus_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`eventbus (\w+)", page.read_text(encoding="utf-8"))}
    assert named
    for name in named:
        run("-m", "eventbus", name, "--help")


@pytest.mark.parametrize("name", ["demo", "test"])
def test_ci_finds_the_commands_of_the_readme(name: str) -> None:
    (block,) = [block for block in blocks_of(ROOT / "README.md") if block.marker == f"command: {name}"]
    assert block.text.startswith("python3 -m venv .venv && ")
    assert "\n" not in block.text
    for folder in ("eventbus_core", "eventbus_memory"):
        assert f"./{folder} " in block.text, "without './' pip would look for our names on an index"


def test_option_tables_are_those_of_the_classes() -> None:
    run("docs/options_table.py", "--check")


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    page = ROOT / "docs/errors.md"
    tree = next(block.text for block in blocks_of(page) if block.language == "text")
    lines = [line.removeprefix("    ") for line in (errors.__doc__ or "").splitlines()]
    drawn = [line for line in lines if line.startswith(("EventBusError", "├", "│", "└"))]
    assert tree.splitlines() == drawn


def test_every_error_has_its_section() -> None:
    classes = {name for name, value in vars(errors).items() if _is_error(value)}
    shown = re.findall(r"^### `(\w+)`$", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(classes - {"EventBusError"})


def test_the_concepts_have_every_hook_and_every_reason() -> None:
    rows = re.findall(r"^\| `([\w ]+)` \|", (ROOT / "docs/concepts.md").read_text(encoding="utf-8"), re.MULTILINE)
    hooks = {name for name in vars(eventbus.connect()) if name.startswith("on_")}
    assert hooks
    assert {*hooks, *Reason} <= set(rows)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.EventBusError)


def test_every_guarantee_is_described() -> None:
    for page in ("README.md", "docs/guarantees.md"):
        rows = re.findall(r"^\| (G\d+) ", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rows) == GUARANTEES, page
