import subprocess
import sys
from pathlib import Path

RUNNER = """
import asyncio, inspect

def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        names = pyfuncitem._fixtureinfo.argnames
        asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
        return True
"""
TESTS = """
import asyncio
import pytest

kept = []

async def test_leaks():
    kept.append(asyncio.create_task(asyncio.sleep(60)))

@pytest.mark.no_task_leaks
async def test_leaks_and_says_so():
    kept.append(asyncio.create_task(asyncio.sleep(60)))

def test_takes_a_day(virtual_clock):
    virtual_clock.run(asyncio.sleep(86400), limit=90000)
    assert virtual_clock.now() == 86400
"""


def run(directory: Path, *arguments: str) -> str:
    """What pytest says in a project of its own, with the plugin loaded as an installed one is."""
    (directory / "conftest.py").write_text(RUNNER)
    (directory / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_marker_fails_a_test_that_leaves_a_task(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert "1 failed, 2 passed" in said
    assert "test_leaks_and_says_so" in said
    assert "TaskLeak" in said


def test_the_setting_is_the_marker_on_every_async_test(tmp_path: Path) -> None:
    assert "2 failed, 1 passed" in run(tmp_path, "-o", "holdfast_task_leaks=true")
