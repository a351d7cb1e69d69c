"""Deploys by a swapped symbolic link, as Capistrano and its like do."""

from contextlib import ExitStack
from pathlib import Path

from e2e.harness import APPS, Running, request, wait_for
from e2e.pressure import assert_nothing_lost, pressure


def _release(directory: Path, word: str) -> Path:
    directory.mkdir(parents=True)
    text = (APPS / "plain.py").read_text().replace('WHO = f"', f'WHO = f"{word} ')
    assert word in text
    (directory / "plain.py").write_text(text)
    return directory


def _swap(current: Path, release: Path) -> None:
    fresh = current.with_name("fresh")
    fresh.symlink_to(release)
    fresh.rename(current)


def test_a_reload_and_an_upgrade_follow_the_link_to_the_new_release(tmp_path: Path) -> None:
    current = tmp_path / "current"
    _swap(current, _release(tmp_path / "releases/1", "first"))
    with ExitStack() as stack:
        running = Running(current, "plain:app", "--workers", "2", "--control", str(tmp_path / "control"))
        running.control_path = tmp_path / "control"
        stack.callback(running.end)
        running.wait_serving()
        assert request(running.address)[2].startswith(b"first")
        with pressure(running) as load:
            _swap(current, _release(tmp_path / "releases/2", "second"))
            running.reload()
            # For a moment an old worker, not yet told, may still take a connection.
            wait_for(lambda: len(running.children()) == 2, what="the old workers have ended")
            assert request(running.address)[2].startswith(b"second")
            _swap(current, _release(tmp_path / "releases/3", "third"))
            (tmp_path / "releases/1").rename(tmp_path / "releases/gone")
            running.ask("upgrade")
            wait_for(lambda: len(running.children()) == 2, what="the old workers have ended")
            assert request(running.address)[2].startswith(b"third")
            assert_nothing_lost(load.stop())
