"""A load beside a test: light and paced, so that what is measured is the service and not two busy cores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from e2e.harness import Running
from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess
from holdfast.lab.report import Report

Mode = Literal["keepalive", "connect"]


@contextmanager
def pressure(
    running: Running | str, mode: Mode = "keepalive", *, connections: int = 10, rate: float = 200.0, path: str = "/"
) -> Iterator[LoadProcess]:
    """Requests on a timetable until the test has what it wants; ``running`` may be the address itself."""
    address = running if isinstance(running, str) else running.address
    load = Load(addresses=(address,), path=path, mode=mode, connections=connections, rate=rate, duration=300)
    with LoadProcess(load) as process:
        yield process


def assert_nothing_lost(report: Report, at_least: int = 20) -> None:
    """Every request had its answer, and there were some."""
    assert report.failures == {}, report.summary()
    assert report.requests >= at_least, report.summary()
