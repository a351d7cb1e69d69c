"""The demonstration: its parts, and the whole of it as a person or a script starts it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

LIMIT = 180.0
END_LIMIT = 30.0


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory of its own with a short name: a socket's path has 103 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hf") as directory:
        yield Path(directory)


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """``holdfast demo`` with its temporary files in ``directory``; in a session of its own, as in a terminal."""
    environment = {**os.environ, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "demo", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()
        for one in shop_processes(directory):
            one.kill()


def shop_processes(directory: Path) -> list[psutil.Process]:
    """The processes that were started with this directory in their environment or on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("HOLDFAST_RUNTIME", "").startswith(str(directory)):
                found.append(process)
        except psutil.Error:
            continue  # it has just ended, or is not ours to look at
    return found


def eventually(condition: Callable[[], bool], what: str, within: float = END_LIMIT) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.05)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """The lines up to the first with this text."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended without {text!r}:\n{seen}")


@pytest.mark.e2e
def test_the_demo_loses_nothing_that_it_should_not_and_proves_its_orders(short_path: Path) -> None:
    with demo(short_path, "--seconds", "1", "--rate", "100", "--json") as process:
        output, errors = process.communicate(timeout=LIMIT)
    assert errors == ""
    result: dict[str, Any] = json.loads(output)
    steps = {step["name"]: step for step in result["steps"]}
    assert list(steps) == ["steady load", "reload", "broken version", "kill -9", "hang", "upgrade", "overload", "edit"]
    assert all(step["ok"] and step["requests"] > 0 for step in steps.values()), result
    free = ("steady load", "reload", "broken version", "upgrade", "overload", "edit")
    assert [steps[name]["failures"] for name in free] == [0] * len(free)
    assert all(steps[name]["kinds"]["orders"]["refused"] == 0 for name in free[:4])
    assert "refused: " in steps["broken version"]["note"]
    check_overload(steps["overload"])
    check_edit(steps["edit"])
    assert result["orders_checked"] > 20
    assert result["orders"]["missing"] == result["orders"]["doubled"] == 0
    assert result["ok"] is True
    assert process.returncode == 0
    assert shop_processes(short_path) == []
    assert list(short_path.iterdir()) == []


def check_overload(step: dict[str, Any]) -> None:
    """Whatever the machine can do: it was asked for more, most of that was refused, and orders were answered."""
    assert step["asked"] > 2 * step["capacity"]
    orders, browsing = step["kinds"]["orders"], step["kinds"]["browsing"]
    assert orders["answered"] >= 0.99 * (orders["answered"] + orders["refused"]) > 50
    assert browsing["refused"] > browsing["answered"] > 0
    assert len(step["by_second"]) >= 4
    rush = [second for second in step["by_second"] if second["browsing"]["refused"] > second["browsing"]["answered"]]
    assert rush
    assert all(second["orders"]["answered"] > 0 for second in rush)


def check_edit(step: dict[str, Any]) -> None:
    """The limit held, showed, and went; the misspelt one is named with its place and the right name."""
    assert step["limits"] == ["1000/s", "25/s"]
    assert step["workers"] == 2
    assert all(0 < seconds < 10 for seconds in step["held_seconds"])
    before, limited, misspelt, back = step["answered_per_second"]
    # Each worker allows 25 a second; what little more there may be was saved up in a moment without requests.
    assert before > limited
    assert back > misspelt
    assert 0 < limited < 75
    assert 0 < misspelt < 75
    assert step["kinds"]["browsing"]["refused"] > 50
    assert step["refusal"].startswith("gateway.toml:")
    assert "routes[2].rate_limti" in step["refusal"]
    assert step["refusal"].endswith("did you mean rate_limit?")


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_and_prints_the_summary(short_path: Path, number: signal.Signals) -> None:
    with demo(short_path) as process:
        read_until(process, "reloading gateway")
        assert len(shop_processes(short_path)) >= 12, "four supervisors with two workers each"
        process.send_signal(number)
        output, errors = process.communicate(timeout=END_LIMIT)
    assert errors == ""
    assert "what each step cost" in output
    assert "each is in the database exactly once" in output
    assert process.returncode == 0
    assert shop_processes(short_path) == []
    assert list(short_path.iterdir()) == []


@pytest.mark.e2e
def test_a_signal_before_the_shop_is_up_ends_it_too(short_path: Path) -> None:
    with demo(short_path) as process:
        read_until(process, "starting gateway")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=END_LIMIT)
    assert (errors, process.returncode) == ("", 130)
    assert "stopped before the shop was up" in output
    assert shop_processes(short_path) == []
    assert list(short_path.iterdir()) == []


if sys.platform == "linux":  # elsewhere the kernel does not tell children of their parent's death

    @pytest.mark.e2e
    def test_a_demo_that_is_killed_leaves_no_process_behind(short_path: Path) -> None:
        with demo(short_path) as process:
            read_until(process, "steady load")
            process.kill()
            process.communicate(timeout=END_LIMIT)
            eventually(lambda: shop_processes(short_path) == [], "all supervisors and workers have ended")
