"""The pytest plugin. It is loaded by itself where Holdfast is installed, and does nothing until it is asked to.

Fixture ``virtual_clock``; marker ``no_task_leaks``; setting ``holdfast_task_leaks = true``, which means the marker
on every async test, whoever runs those (pytest-asyncio, anyio, unittest). Tests that run on another loop than
asyncio's, such as trio's, have no tasks to check.
"""

import asyncio
import functools
import inspect
import unittest
from collections.abc import Callable
from typing import Any

import pytest

MARKER = "no_task_leaks"
SETTING = "holdfast_task_leaks"
MISPLACED = pytest.StashKey[bool]()
"""On a test that has the marker itself, and in which there is nothing to check."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(SETTING, "fail async tests that leave tasks running", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: fail when the async test leaves tasks running")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    everywhere = config.getini(SETTING)
    for item in items:
        if not isinstance(item, pytest.Function) or not (everywhere or item.get_closest_marker(MARKER)):
            continue
        given = getattr(item.obj, "hypothesis", None)  # what @given makes is a plain function around the test
        if inspect.iscoroutinefunction(item.obj):
            item.obj = _checked(item.obj)
            if isinstance(item.instance, unittest.TestCase):
                setattr(item.instance, item.name, item.obj)  # it runs its own method, and not the item's
        elif given is not None and inspect.iscoroutinefunction(given.inner_test):
            given.inner_test = _checked(given.inner_test)
        elif any(mark.name == MARKER for mark in getattr(item.obj, "pytestmark", ())):
            item.stash[MISPLACED] = True


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.stash.get(MISPLACED, False):
        pytest.fail(f"{MARKER} is for async tests; in others use no_task_leaks() in the coroutine", pytrace=False)


@pytest.fixture
def virtual_clock() -> Any:
    """A ``VirtualClock`` at 0 s: ``virtual_clock.run(main())`` runs a coroutine in which waiting costs nothing."""
    from holdfast.core.clock import VirtualClock

    return VirtualClock(start=0.0)


def _checked(test: Callable[..., Any]) -> Callable[..., Any]:
    if getattr(test, "holdfast_checked", False):  # one function of several tests, for other parameters
        return test

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> Any:
        from holdfast.testing.leaks import no_task_leaks

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await test(*args, **kwargs)
        async with no_task_leaks():
            return await test(*args, **kwargs)

    run.holdfast_checked = True  # type: ignore[attr-defined]
    return run
