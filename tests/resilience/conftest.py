"""What the tests of all policies share: every kind of event loop, and threads that switch as often as they can."""

import sys
from collections.abc import Iterator

import pytest

from resilience.loops import KINDS, Kind, RunAsync

SWITCH_SECONDS = 1e-6
"""How long a thread runs before another one gets its turn."""


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def run_async(request: pytest.FixtureRequest) -> RunAsync:
    """Runs a coroutine on each kind of loop, in real time: ``run_async(main())``."""
    kind: Kind = request.param
    return kind.run


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads switch after every microsecond, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)
