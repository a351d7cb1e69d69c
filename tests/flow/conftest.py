"""One test, every kind of event loop: as the list has it for this Python, none is skipped."""

import pytest

from flow.loops import KINDS, Kind, Run


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on each kind of loop; the test uses no timers."""
    kind: Kind = request.param
    return kind.run


@pytest.fixture(params=[kind for kind in KINDS if kind.virtual], ids=lambda kind: kind.name)
def run_in_virtual_time(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on each kind of loop whose timers cost no time."""
    kind: Kind = request.param
    return kind.run
