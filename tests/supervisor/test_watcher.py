"""What is saved is noticed once it is whole, and nobody is held up by a look."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.config.signature import Signature
from holdfast.supervisor import watcher as module
from holdfast.supervisor.watcher import Watcher, block_signals

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL", 0.002)
    monkeypatch.setattr(module, "SETTLE", 0.002)


class Scripted(Watcher):
    """One whose looks find what the test says, one after the other, and then the last."""

    def __init__(self, *looks: str) -> None:
        super().__init__([])
        self.script = list(looks)
        self.looks = 0

    def look(self) -> Signature:
        self.looks += 1
        found = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return ((found, (), ()),)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again; whoever calls has a limit."""
    while not holds():  # noqa: ASYNC110 - it is a thread that makes it true
        await asyncio.sleep(0.001)


def test_a_change_is_told_once_it_has_settled() -> None:
    async def scene() -> None:
        watcher = Scripted("a", "a", "half", "half more", "whole", "whole")
        watcher.seen = watcher.told = (("a", (), ()),)
        watcher.start()
        await watcher.changed.wait()
        watcher.stop()
        assert watcher.told == (("whole", (), ()),)

    run(scene)


def test_what_is_written_all_the_time_is_told_in_the_end() -> None:
    async def scene() -> None:
        watcher = Scripted(*(f"v{number}" for number in range(100_000)))
        watcher.start()
        await watcher.changed.wait()
        watcher.stop()
        assert 20 <= int(watcher.told[0][0][1:]) <= 30

    run(scene)


def test_what_somebody_else_has_read_already_is_not_told() -> None:
    async def scene() -> None:
        watcher = Scripted("a")
        watcher.seen = (("a", (), ()),)
        watcher.start()
        await until(lambda: watcher.looks >= 20)
        watcher.stop()
        assert not watcher.changed.is_set()

    run(scene)


def test_a_file_that_is_saved_is_noticed(tmp_path: Path) -> None:
    async def scene() -> None:
        file = tmp_path / "holdfast.toml"
        watcher = Watcher([file])
        watcher.seen = watcher.told = watcher.look()
        watcher.start()
        for text in ("[run]\n", "[run]\nworkers = 2\n"):
            file.write_text(text)
            await watcher.changed.wait()
            watcher.changed.clear()
            watcher.seen = watcher.look()
        watcher.stop()

    run(scene)


def test_a_file_system_that_hangs_holds_up_nobody() -> None:
    async def scene() -> None:
        reached, released = threading.Event(), threading.Event()

        class Hanging(Watcher):
            def look(self) -> Signature:
                reached.set()
                released.wait(PATIENCE)
                return ()

        watcher = Hanging([])
        watcher.start()
        await until(reached.is_set)
        watcher.stop()  # and the loop ends while the look goes on
        released.set()

    run(scene)


def test_the_thread_takes_no_signal_that_a_successor_should_get() -> None:
    blocked: list[set[signal.Signals | int]] = []

    def look() -> None:
        block_signals()
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(PATIENCE)
    assert {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD} <= blocked[0]


def test_a_secrets_file_that_is_rotated_is_noticed_and_is_no_saved_layer(tmp_path: Path) -> None:
    async def scene() -> None:
        layer, secret = tmp_path / "holdfast.toml", tmp_path / "password"
        layer.write_text("")
        secret.write_text("one")
        watcher = Watcher([layer])
        watcher.seen = watcher.told = watcher.look()
        watcher.follow([secret])
        watcher.start()
        secret.write_text("another")
        await watcher.changed.wait()
        assert not watcher.saved
        assert watcher.changed_among([secret, layer]) == {secret}
        watcher.follow([secret])
        assert not watcher.changed_among([secret])
        assert watcher.look() == watcher.seen
        watcher.changed.clear()
        layer.write_text("[run]\n")
        await watcher.changed.wait()
        watcher.stop()
        assert watcher.saved

    run(scene)


def test_what_turns_out_to_be_no_secrets_file_is_left_alone_and_the_others_stay_as_they_were_seen(
    tmp_path: Path,
) -> None:
    layer, secret, journal = (tmp_path / name for name in ("holdfast.toml", "password", "journal"))
    secret.write_text("one")
    watcher = Watcher([layer])
    watcher.follow([journal, secret], watcher.look())
    secret.write_text("another")
    watcher.narrow({secret})
    assert watcher.secrets == (secret,)
    assert watcher.changed_among([secret]) == {secret}
    before = watcher.look()
    journal.write_text("a line")
    assert watcher.look() == before


def test_so_many_files_of_secrets_are_watched_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SECRETS_LIMIT", 3)
    watcher = Watcher([])
    files = [tmp_path / str(number) for number in range(5)]
    watcher.follow([files[0], *files])
    assert watcher.secrets == tuple(files[:3])
    assert "5 files hold secrets: changes are noticed in the first 3" in caplog.text
