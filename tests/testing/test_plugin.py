import os
import subprocess
import sys
from pathlib import Path

RUNNER = """
import asyncio, inspect

def in_a_loop(test):
    return lambda *args, **options: asyncio.run(test(*args, **options))

def by_hand(test):  # as a loop that is not asyncio's
    def run(*args, **options):
        try:
            test(*args, **options).send(None)
        except StopIteration:
            pass
    return run

def pytest_pyfunc_call(pyfuncitem):
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is not None and inspect.iscoroutinefunction(given.inner_test):
        given.inner_test = in_a_loop(given.inner_test)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        names = pyfuncitem._fixtureinfo.argnames
        run = by_hand if "by_hand" in pyfuncitem.name else in_a_loop
        run(pyfuncitem.obj)(**{name: pyfuncitem.funcargs[name] for name in names})
        return True
"""
TESTS = """
import asyncio
import pytest
from hypothesis import given, settings, strategies
from unittest import IsolatedAsyncioTestCase

kept = []

async def leak():
    kept.append(asyncio.create_task(asyncio.sleep(60)))

async def test_leaks():
    await leak()

@pytest.mark.no_task_leaks
async def test_leaks_and_says_so():
    await leak()

class TestMethods:
    @pytest.fixture(autouse=True)
    def prepared(self):
        self.ready = True

    @pytest.mark.parametrize("number", [1, 2])
    async def test_is_clean(self, number):
        assert self.ready
        await asyncio.sleep(0)

    async def test_method_leaks(self):
        assert self.ready
        await leak()

class TestUnit(IsolatedAsyncioTestCase):
    async def test_unit_leaks(self):
        await leak()

    async def test_unit_is_clean(self):
        await asyncio.sleep(0)

@pytest.mark.parametrize("again", [1, 2])
@given(number=strategies.integers(0, 9))
@settings(max_examples=2, database=None)
async def test_given_leaks(again, number):
    await leak()

@pytest.mark.parametrize("again", [1, 2])
@given(number=strategies.integers(0, 9))
@settings(max_examples=2, database=None)
async def test_given_is_clean(again, number):
    await asyncio.sleep(0)

async def test_by_hand_has_no_tasks():
    pass

def test_takes_a_day(virtual_clock):
    virtual_clock.run(asyncio.sleep(86400), limit=90000)
    assert virtual_clock.now() == 86400

def test_has_a_clock_of_its_own(virtual_clock):
    assert virtual_clock.now() == 0
"""
LEAKING = ["test_given_leaks[1]", "test_given_leaks[2]", "test_leaks", "test_leaks_and_says_so", "test_method_leaks"]
LEAKING += ["test_unit_leaks"]
MISPLACED = """
import pytest

@pytest.mark.no_task_leaks
def test_is_marked(): ...
"""
MARKED_MODULE = """
import pytest

pytestmark = pytest.mark.no_task_leaks

def test_is_among_others(): ...
"""


def run(directory: Path, tests: str, *arguments: str) -> str:
    """What pytest says in a project of its own, with the plugin loaded as an installed one is."""
    (directory / "conftest.py").write_text(RUNNER)
    (directory / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *arguments]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=directory, env=wide, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def failed(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.startswith("FAILED")]
    assert all("TaskLeak" in line for line in lines), said
    return sorted(line.split()[1].rpartition("::")[2] for line in lines)


def test_the_marker_fails_a_test_that_leaves_a_task(tmp_path: Path) -> None:
    said = run(tmp_path, TESTS)
    assert failed(said) == ["test_leaks_and_says_so"]
    assert "1 failed, 13 passed" in said


def test_the_setting_is_the_marker_on_every_async_test(tmp_path: Path) -> None:
    said = run(tmp_path, TESTS, "-o", "holdfast_task_leaks=true")
    assert failed(said) == LEAKING
    assert "6 failed, 8 passed" in said


def test_the_marker_on_a_test_that_is_not_async_is_an_error(tmp_path: Path) -> None:
    assert "no_task_leaks is for async tests" in run(tmp_path, MISPLACED)
    assert "1 passed" in run(tmp_path, MARKED_MODULE)
