"""The examples of the pages, run as a reader would run them.

A python block with a title is a file. Those of one page lie in one directory. A file that has a ``service`` or an
``app`` is served, and its ``/`` is asked for; a test is run; any other is imported.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import PAGES, Block, all_blocks, blocks
from e2e.harness import Running
from e2e.harness import request as ask

TITLED = [block for block in all_blocks("python") if block.title]


def served(text: str) -> str:
    """The name in ``text`` that ``holdfast run`` would be given; empty when there is none."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return next((name for name in ("service", "app") if name in names), "")


def save(page: Path, directory: Path) -> None:
    titles = set()
    for block in blocks(page):
        if block.language == "python" and block.title:
            assert block.title not in titles, f"{block.place}: the page has two files {block.title}"
            titles.add(block.title)
            path = directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def module(block: Block) -> str:
    return block.title.removesuffix(".py").replace("/", ".")


SERVED = [block for block in TITLED if served(block.text)]
IMPORT_EACH = """
import importlib, sys
modules = sys.argv[1:]
for name in modules:
    print(name, flush=True)
    importlib.import_module(name)
    for other in modules:  # each is the first one
        sys.modules.pop(other, None)
"""
IMPORTED = [block for block in TITLED if not served(block.text)]


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.place)
def test_each_python_block_is_python(block: Block) -> None:
    compile(block.text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_pages_with_apps_have_files_to_run() -> None:
    assert IMPORTED
    with_files = {block.page.name for block in SERVED}
    assert {"README.md", "reload.md", "service.md", "health.md", "wsgi.md", "crashes.md", "limits.md"} <= with_files
    assert all(any(blocks(page)) for page in PAGES if page.name not in ("CHANGELOG.md", "index.md"))


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in IMPORTED), ids=lambda page: page.name)
def test_each_file_that_serves_nothing_runs_or_can_be_imported(page: Path, tmp_path: Path) -> None:
    save(page, tmp_path)
    here = [block for block in IMPORTED if block.page == page]
    tests = [block.title for block in here if Path(block.title).name.startswith("test_")]
    modules = [module(block) for block in here if block.title not in tests]
    runs = [["-W", "error", "-c", IMPORT_EACH, *modules]]
    if tests:
        runs.append(["-m", "pytest", "-q", *tests])
    for arguments in runs:
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page.name}:\n{done.stdout}{done.stderr}"


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    block: Block = request.param
    save(block.page, tmp_path)
    made = Running(tmp_path, f"{module(block)}:{served(block.text)}", "--workers", "1")
    try:
        yield made.wait_serving()
    finally:
        made.end()


@pytest.mark.e2e
@pytest.mark.parametrize("running", SERVED, ids=lambda block: block.place, indirect=True)
def test_each_app_serves_and_stops(running: Running) -> None:
    status, _, body = ask(running.address)
    assert status == 200, running.log
    assert body
    running.reload()
    assert ask(running.address)[0] == 200
    running.ask("stop")
    assert running.wait_end() == 0
    assert "Traceback" not in running.log, running.log
