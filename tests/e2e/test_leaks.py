"""Many reloads in a row leave nothing behind: the check of benchmarks/soak.py, in short."""

from collections.abc import Callable

from benchmarks.soak import MAX_KIB_A_RELOAD, Growth, Sample, growth, soak

from e2e.harness import Running
from e2e.pressure import assert_nothing_lost, pressure

RELOADS = 25


def test_reloads_in_a_row_leave_no_descriptor_process_or_memory_behind(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--log-level", "warning")
    with pressure(running, rate=50) as load:
        samples = soak(running.pid, running.reload, RELOADS, workers=1)
        assert_nothing_lost(load.stop())
    assert growth(samples).complaints(RELOADS) == [], samples
    assert running.status()["crashes"] == 0


def test_the_check_sees_a_leak() -> None:
    flat = [Sample(number, 20, 1, 40 << 20, 1) for number in range(0, 100, 5)]
    assert growth(flat) == Growth(0, 0, 0.0, 0)
    leaking = [one._replace(memory=one.memory + one.reloads * 64 * 1024) for one in flat]
    assert growth(leaking).memory == 64.0
    assert growth(leaking).complaints(100) == [f"memory grew by 64.00 KiB a reload, over {10.24:.2f}"]
    one_more = [*flat, flat[-1]._replace(reloads=100, descriptors=21, processes=2)]
    assert growth(one_more).complaints(1000) == ["descriptors grew by 1", "processes grew by 1"]
    odd = [*flat[:5], flat[5]._replace(memory=80 << 20), *flat[6:]]
    assert growth(odd).complaints(1000) == []
    assert MAX_KIB_A_RELOAD * 1000 < 4097
