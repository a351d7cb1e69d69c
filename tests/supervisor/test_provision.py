"""What a process puts off loading is complete, is loaded by itself, and holds up nobody."""

import ast
import asyncio
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.supervisor import provision

PATIENCE = 30.0
ELSEWHERE = {
    "holdfast.config.schema_json": "only commands describe the configuration to editors",
    "holdfast.server.wsgi": "whether the app is WSGI is known at the boot",
    "holdfast.supervisor.forms": "only commands describe the configuration to editors",
}
"""What a worker never needs after its boot, and why."""
LISTING = """
import json, sys
from holdfast.core.clock import VirtualClock
from holdfast.supervisor import provision, worker
provision.load(provision.WORKER)
print(json.dumps({name: module.__file__ for name, module in sys.modules.items() if name.startswith("holdfast.")}))
"""


def put_off(body: list[ast.stmt], inside: bool = False) -> Iterator[str]:
    """The names that functions import while they run, modules or what is in them."""
    for statement in body:
        if inside and isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif inside and isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from put_off(statement.orelse, inside)
        else:
            deeper = inside or isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(statement, field, [])
                for one in inner if isinstance(inner, list) else []:
                    nested = [one] if isinstance(one, ast.stmt) else one.body
                    yield from put_off(nested, deeper)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def test_a_worker_has_everything_that_it_may_need_once_it_is_provided() -> None:
    told = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, check=True, timeout=PATIENCE)
    loaded: dict[str, str] = json.loads(told.stdout)
    assert "holdfast.server.http.protocol" in loaded
    wanted = {
        name
        for file in loaded.values()
        for name in put_off(ast.parse(Path(file).read_text()).body)
        if name.startswith("holdfast.") and is_module(name)
    }
    assert "holdfast.server.http.websocket" in wanted  # the search finds what is put off
    assert wanted - loaded.keys() == ELSEWHERE.keys()


def test_what_cannot_be_loaded_is_told_and_the_rest_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_replaced.py").write_text("def broken(")
    (tmp_path / "whole_provided.py").write_text("")
    monkeypatch.delitem(sys.modules, "whole_provided", raising=False)
    provision.load(("gone_provided", "half_replaced", "whole_provided"))
    assert "whole_provided" in sys.modules
    told = [record.getMessage().split(":")[0] for record in caplog.records]
    assert told == ["gone_provided cannot be loaded ahead", "half_replaced cannot be loaded ahead"]


def test_it_is_loaded_in_a_thread_of_its_own_while_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow_disk(name: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        done.set()

    monkeypatch.setattr(importlib, "import_module", slow_disk)

    async def scene() -> None:
        async with asyncio.timeout(PATIENCE):
            provision.provide(("anything",), delay=0.0)
            while not begun.is_set():  # noqa: ASYNC110 - it is a thread that makes it true
                await asyncio.sleep(0.001)
            assert not done.is_set()
            go_on.set()

    asyncio.run(scene())
    assert done.wait(PATIENCE)


def test_a_process_that_ends_before_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(importlib, "import_module", loaded.append)
    clock = VirtualClock()

    async def scene(cancel: bool) -> None:
        handle = provision.provide(("anything",))
        if cancel:
            handle.cancel()
        await clock.sleep(2 * provision.DELAY)
        for thread in threading.enumerate():
            if thread.name == "provision":
                thread.join(PATIENCE)

    clock.run(scene(cancel=True))
    assert loaded == []
    clock.run(scene(cancel=False))
    assert loaded == ["anything"]
