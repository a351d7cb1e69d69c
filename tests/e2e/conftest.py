"""Every test here starts real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.harness import Running, service

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Called with the whole run's tests: mark those of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Serves an app of tests/e2e/apps; ended with the test."""
    with ExitStack() as stack:

        def start(app: str, *options: str, env: dict[str, str] | None = None) -> Running:
            return stack.enter_context(service(tmp_path, app, *options, env=env))

        yield start
