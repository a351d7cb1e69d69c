"""The pytest plugin. It is loaded by itself where Holdfast is installed, and does nothing until it is asked to.

Fixture ``virtual_clock``; marker ``no_task_leaks``; setting ``holdfast_task_leaks = true``, which means the marker
on every async test, whichever plugin runs those (pytest-asyncio, anyio).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

MARKER = "no_task_leaks"
SETTING = "holdfast_task_leaks"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(SETTING, "fail async tests that leave tasks running", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: fail when the async test leaves tasks running")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    everywhere = config.getini(SETTING)
    for item in items:
        if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
            continue
        if everywhere or item.get_closest_marker(MARKER):
            item.obj = _checked(item.obj)


@pytest.fixture
def virtual_clock() -> Any:
    """A ``VirtualClock`` at 0 s: ``virtual_clock.run(main())`` runs a coroutine in which waiting costs nothing."""
    from holdfast.core.clock import VirtualClock

    return VirtualClock(start=0.0)


def _checked(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> Any:
        from holdfast.testing.leaks import no_task_leaks

        async with no_task_leaks():
            return await test(*args, **kwargs)

    return run
