import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from config.sections import NO_ENV, SCHEMA, document, values
from holdfast.config.diff import Changes
from holdfast.config.document import Document
from holdfast.config.history import History
from holdfast.config.live import PENDING_LIMIT, READ_TIMEOUT, TURN_TIMEOUT, Live
from holdfast.config.mistakes import ConfigErrors, Place
from holdfast.config.schema import Schema
from holdfast.config.secret import BLOT
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import WALL_OFFSET, VirtualClock
from holdfast.core.errors import ConfigError, Overloaded

PATIENCE = 30.0
GOOD = values(routes=[{"match": "a"}])
BETTER = values(routes=[{"match": "b"}], errors={"x": "y"})


def run(scene: Callable[[Live, VirtualClock], Coroutine[Any, Any, None]], start: Document = GOOD) -> Live:
    clock = VirtualClock()
    live = Live(SCHEMA, start, clock=clock, env=NO_ENV)

    async def main() -> None:
        await scene(live, clock)
        await live.close()

    clock.run(main())
    return live


async def refusal(live: Live, proposal: Document | Callable[[], Document] = BETTER) -> ConfigErrors:
    before = live.current
    with pytest.raises(ConfigError) as caught:
        await live.propose(proposal, who="ann", why="to try")
    assert live.current is before
    assert live.history.entries[-1].verdict == "refused"
    assert live.history.entries[-1].version == before.version
    assert isinstance(caught.value, ConfigErrors | ConfigError)
    return caught.value  # type: ignore[return-value]


def test_a_good_proposal_takes_hold() -> None:
    async def scene(live: Live, clock: VirtualClock) -> None:
        changes = live.watch.changes()
        clock.advance(5)
        applied = await live.propose(BETTER, who="ann", why="more routes")
        assert applied.snapshot is live.current
        assert live.current.version == 2
        assert live.current.routes[0].match == "b"
        assert [change.path for change in applied.changes.items] == ["routes[0].match", "errors.x"]
        assert applied.new_generation
        assert await anext(changes) is live.current
        entry = live.history.entries[-1]
        assert (entry.version, entry.verdict, entry.who, entry.why) == (2, "applied", "ann", "more routes")
        assert entry.at == clock.now() + WALL_OFFSET
        assert entry.digest == live.current.digest
        assert entry.changes == (("routes[0].match", "a", "b"), ("errors.x", "<absent>", "y"))

    live = run(scene)
    first = live.history.entries[0]
    assert (first.version, first.who, first.changes) == (1, "start", ())


def test_a_change_that_is_live_needs_no_generation() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        assert not (await live.propose(values(routes=[{"match": "c"}]), who="ann")).new_generation

    run(scene)


def test_a_bad_proposal_changes_nothing_and_tells_all() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        heard: list[Snapshot] = []
        live.on_change(heard.append)
        error = await refusal(live, values(routes=[{"match": 5}, {"matsch": "x"}]))
        assert error.total == 3
        assert live.history.entries[-1].errors == tuple(str(one) for one in error.errors)
        assert not heard

    run(scene)


def test_a_proposal_that_cannot_be_parsed_is_a_refusal(tmp_path: Path) -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        assert "valid TOML" in str(await refusal(live, lambda: document("routes = =", tmp_path)))

    run(scene)


def test_a_fault_in_what_reads_the_proposal_changes_nothing() -> None:
    def read() -> Document:
        raise KeyError("oops")

    async def scene(live: Live, _: VirtualClock) -> None:
        with pytest.raises(KeyError):
            await live.propose(read, who="ann")
        assert live.current.version == 1
        assert (await live.propose(BETTER, who="ann")).snapshot.version == 2

    run(scene)


def test_the_same_again_is_no_change() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        heard: list[Snapshot] = []
        live.on_change(heard.append)
        before = live.current
        applied = await live.propose(values(routes=[{"match": "a"}]), who="ann")
        assert applied.snapshot is live.current is before
        assert not applied.changes
        assert not applied.new_generation
        assert not heard
        assert len(live.history.entries) == 1

    run(scene)


def test_a_start_that_is_not_good_raises() -> None:
    with pytest.raises(ConfigErrors):
        Live(SCHEMA, values(routes=5), env=NO_ENV)


async def say_no(_: Snapshot) -> str:
    return "not on Fridays"


def say_false(_: Snapshot) -> bool:
    return False


def raise_value_error(_: Snapshot) -> None:
    raise ValueError("a\nbroken  check")


def raise_config_error(snapshot: Snapshot) -> None:
    raise ConfigError("routes[0].match", snapshot.routes[0].match, "a path")


async def raise_os_error(_: Snapshot) -> None:
    raise OSError("no network")


async def cancel_itself(_: Snapshot) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (say_no, "routes: expected what say_no agrees to; not on Fridays"),
        (say_false, "routes: expected what say_false agrees to"),
        (raise_value_error, "routes: expected what raise_value_error agrees to; ValueError: a broken check"),
        (raise_config_error, "routes[0].match: got 'b', expected a path"),
        (raise_os_error, "routes: expected what raise_os_error agrees to; OSError: no network"),
        (cancel_itself, "routes: expected what cancel_itself agrees to; RuntimeError: it cancelled itself"),
    ],
)
def test_a_check_may_refuse(check: Callable[[Snapshot], Any], words: str) -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        heard: list[Snapshot] = []
        live.on_change(heard.append)
        end = live.check(check, "routes")
        assert str(await refusal(live)) == words
        assert live.history.entries[-1].errors == (words,)
        assert not heard
        end()
        await live.propose(BETTER, who="ann")
        assert [snapshot.version for snapshot in heard] == [2]

    run(scene)


def test_checks_see_the_candidate_while_the_old_one_holds() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        seen = []

        async def look(snapshot: Snapshot) -> None:
            seen.append((snapshot.routes[0].match, live.current.routes[0].match))

        live.check(look)
        live.on_change(look)
        await live.propose(BETTER, who="ann")
        assert seen == [("b", "a"), ("b", "b")]

    run(scene)


def test_all_refusals_are_told() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        live.check(say_no, "routes")
        live.check(say_false, "errors")
        assert (await refusal(live)).total == 2

    run(scene)


def test_only_those_whose_sections_changed_are_asked_and_told() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        called: list[str] = []

        def note(name: str) -> Callable[[Snapshot], None]:
            return lambda _: called.append(name)

        live.check(note("asked about settings"), "settings")
        live.check(note("asked about errors"), "errors", "settings")
        live.check(note("asked about all"))
        live.on_change(note("told of settings"), "settings")
        live.on_change(note("told of routes"), "routes")
        live.on_change(note("told of all"))
        await live.propose(BETTER, who="ann")
        assert sorted(called) == ["asked about all", "asked about errors", "told of all", "told of routes"]

    run(scene)


def test_a_section_that_is_none_is_refused() -> None:
    live = Live(SCHEMA, GOOD, env=NO_ENV)
    with pytest.raises(ValueError, match="no section 'rutes'"):
        live.check(say_no, "rutes")
    with pytest.raises(ValueError, match="no section 'rutes'"):
        live.on_change(say_no, "rutes")


def test_a_check_that_takes_too_long_refuses() -> None:
    async def scene(live: Live, clock: VirtualClock) -> None:
        ended = []

        async def sleep(_: Snapshot) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(clock.now())

        live.check(sleep, "routes", timeout=7)
        began = clock.now()
        assert "it took more than 7 s" in str(await refusal(live))
        assert clock.now() - began == 7
        await asyncio.sleep(0)
        assert ended == [began + 7]

    run(scene)


def test_a_thread_that_is_stuck_refuses_until_it_has_ended() -> None:
    release = threading.Event()
    calls = []

    def stuck(snapshot: Snapshot) -> None:
        calls.append(snapshot)
        release.wait(PATIENCE)

    async def scene(live: Live, _: VirtualClock) -> None:
        live.check(stuck, "routes", timeout=1)
        assert "it took more than 1 s" in str(await refusal(live))
        assert "an earlier call has not ended" in str(await refusal(live))
        assert len(calls) == 1
        release.set()
        deadline = time.monotonic() + PATIENCE  # real time: the thread is real
        while live.current.version == 1:
            assert time.monotonic() < deadline
            try:
                await live.propose(BETTER, who="ann")
            except ConfigError:
                await asyncio.sleep(0.01)  # virtual; nothing tells when the thread has ended, so it is tried again
        assert live.current.version == 2

    run(scene)


def test_a_check_that_ignores_its_cancellation_holds_nobody_up() -> None:
    async def scene(live: Live, clock: VirtualClock) -> None:
        async def stubborn(_: Snapshot) -> None:
            while clock.now() < 1010:
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    continue

        live.check(stubborn, "routes", timeout=1)
        began = clock.now()
        assert "it took more than 1 s" in str(await refusal(live))
        assert clock.now() == began + 1

    run(scene)


def test_a_refusal_does_not_give_a_secret_away() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        def leak(snapshot: Snapshot) -> str:
            return f"cannot connect with {snapshot.settings.database.reveal()}"

        live.check(leak, "settings")
        error = await refusal(live, values(settings={"database": "hunter2"}))
        assert str(
            error
        ) == "settings: expected what test_a_refusal_does_not_give_a_secret_away.<locals>.scene.<locals>" + (
            f".leak agrees to; cannot connect with {BLOT}"
        )
        assert "hunter2" not in repr(live.history.entries)

    run(scene)


def test_a_hook_that_fails_is_logged_and_named_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        heard: list[Snapshot] = []

        async def sleep(_: Snapshot) -> None:
            await asyncio.sleep(3600)

        live.on_change(raise_value_error)
        live.on_change(sleep, timeout=3)
        live.on_change(heard.append)
        applied = await live.propose(BETTER, who="ann")
        assert applied.deaf == ("raise_value_error", sleep.__qualname__)
        assert heard == [applied.snapshot]
        assert live.current is applied.snapshot

    with caplog.at_level(logging.ERROR):
        run(scene)
    assert "raise_value_error failed on configuration 2" in caplog.text
    assert "it took more than 3 s" in caplog.text


def test_proposals_take_turns() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        running: list[str] = []
        most: list[int] = []

        async def check(snapshot: Snapshot) -> None:
            running.append(snapshot.routes[0].match)
            most.append(len(running))
            await asyncio.sleep(1)
            running.pop()

        live.check(check)
        documents = [values(routes=[{"match": f"r{number}"}]) for number in range(8)]
        results = await asyncio.gather(*(live.propose(one, who=str(n)) for n, one in enumerate(documents)))
        assert [applied.snapshot.version for applied in results] == list(range(2, 10))
        assert max(most) == 1
        assert live.current.routes[0].match == "r7"
        assert [entry.who for entry in live.history.entries[1:]] == [str(number) for number in range(8)]

    run(scene)


def test_the_line_of_proposals_is_bounded() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        gate = asyncio.Event()

        async def wait(_: Snapshot) -> None:
            await gate.wait()

        live.check(wait)
        tasks = [
            asyncio.create_task(live.propose(values(routes=[{"match": str(number)}]), who="x"))
            for number in range(PENDING_LIMIT + 1)
        ]
        await asyncio.sleep(0.1)  # of virtual time: nothing else can happen, so all have lined up
        with pytest.raises(Overloaded, match="waiting already"):
            await live.propose(BETTER, who="one too many")
        gate.set()
        assert len(await asyncio.gather(*tasks)) == PENDING_LIMIT + 1

    run(scene)


def test_a_turn_that_does_not_come_is_given_up() -> None:
    async def scene(live: Live, clock: VirtualClock) -> None:
        async def wait(_: Snapshot) -> None:
            await asyncio.sleep(TURN_TIMEOUT * 2)

        live.check(wait, timeout=TURN_TIMEOUT * 3)
        first = asyncio.create_task(live.propose(BETTER, who="a"))
        await asyncio.sleep(1)
        began = clock.now()
        with pytest.raises(Overloaded, match="took more than"):
            await live.propose(values(), who="b")
        assert clock.now() == began + TURN_TIMEOUT
        assert (await first).snapshot.version == 2

    run(scene)


def test_a_proposal_that_is_cancelled_before_the_swap_changes_nothing() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        cancelled = []

        async def wait(_: Snapshot) -> None:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        end = live.check(wait)
        task = asyncio.create_task(live.propose(BETTER, who="a"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert cancelled == [True]
        assert live.current.version == 1
        end()
        assert (await live.propose(BETTER, who="b")).snapshot.version == 2

    run(scene)


def test_a_proposal_that_is_cancelled_after_the_swap_is_told_all_the_same() -> None:
    async def scene(live: Live, clock: VirtualClock) -> None:
        heard: list[tuple[int, float]] = []

        async def slow(snapshot: Snapshot) -> None:
            await asyncio.sleep(5)
            heard.append((snapshot.version, clock.now()))

        live.on_change(slow)
        began = clock.now()
        task = asyncio.create_task(live.propose(BETTER, who="a"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.now() == began + 1
        assert live.current.version == 2
        await live.propose(values(), who="b")
        assert heard == [(2, began + 5), (3, began + 10)]

    run(scene)


def test_a_reader_that_hangs_is_given_up_and_bounded() -> None:
    release = threading.Event()
    calls = []

    def hang() -> Document:
        calls.append(True)
        release.wait(PATIENCE)
        raise ConfigError("a", None, "b")  # which nobody is left to look at

    async def scene(live: Live, clock: VirtualClock) -> None:
        began = clock.now()
        assert "can be read within" in str(await refusal(live, hang))
        assert clock.now() == began + READ_TIMEOUT
        assert "still being read" in str(await refusal(live, hang))
        assert len(calls) == 1
        release.set()

    run(scene)


def test_verify_asks_all_checks_about_what_holds() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        await live.verify()
        live.check(say_no, "settings")
        live.check(say_false, "errors")
        with pytest.raises(ConfigErrors) as caught:
            await live.verify()
        assert caught.value.total == 2

    run(scene)


def test_a_rollback_is_a_new_version_with_old_values() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        first = live.current
        await live.propose(BETTER, who="a")
        applied = await live.rollback(1, who="b", why="it was better")
        assert applied.snapshot.version == 3
        assert applied.snapshot.digest == first.digest
        assert live.current.routes[0].match == "a"
        assert live.history.entries[-1].why == "rollback to 1: it was better"
        with pytest.raises(ConfigError, match="version: got 9, expected a version that is kept; there are 1, 2, 3"):
            await live.rollback(9, who="b")

    run(scene)


def test_a_rollback_is_checked_like_anything_else() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        await live.propose(BETTER, who="a")
        live.check(say_no)
        with pytest.raises(ConfigErrors, match="not on Fridays"):
            await live.rollback(1, who="b")
        assert live.current.version == 2

    run(scene)


def test_a_disk_that_hangs_does_not_hold_a_proposal_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    history = History(tmp_path)
    clock = VirtualClock()
    live = Live(SCHEMA, GOOD, history=history, clock=clock, env=NO_ENV)
    write = history.write

    def slow() -> bool:
        written = write()  # what comes later is not in it, and needs another one
        release.wait(PATIENCE)
        return written

    monkeypatch.setattr(history, "write", slow)

    async def main() -> None:
        for number in range(5):
            await live.propose(values(routes=[{"match": str(number)}]), who="a")
        assert live.current.version == 6
        assert history.unwritten
        release.set()
        await live.flush()
        assert not history.unwritten

    clock.run(main())
    assert History(tmp_path).version == 6


def test_a_check_may_refuse_for_several_reasons() -> None:
    def check(_: Snapshot) -> None:
        raise ConfigErrors([ConfigError("routes[0]", None, "one"), ConfigError("routes[1]", None, "other")])

    async def scene(live: Live, _: VirtualClock) -> None:
        live.check(check)
        assert [error.path for error in (await refusal(live)).errors] == ["routes[0]", "routes[1]"]

    run(scene)


def test_whoever_confirms_has_the_last_word_and_sees_what_it_would_become() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        seen: list[tuple[int, list[str]]] = []

        async def agree(snapshot: Snapshot, changes: Changes) -> None:
            assert live.current.version == snapshot.version - 1
            seen.append((snapshot.version, [change.path for change in changes.items]))

        async def refuse(snapshot: Snapshot, changes: Changes) -> None:
            raise ConfigError("routes", None, "what worker 3 agrees to")

        with pytest.raises(ConfigError, match="worker 3"):
            await live.propose(BETTER, who="ann", confirm=refuse)
        assert (live.current.version, live.history.entries[-1].verdict) == (1, "refused")
        await live.propose(BETTER, who="ann", confirm=agree)
        await live.propose(BETTER, who="ann", confirm=refuse)  # nothing changes: nobody is asked
        assert seen == [(2, ["routes[0].match", "errors.x"])]
        await live.rollback(1, who="bob", confirm=agree)
        assert seen[-1][0] == live.current.version == 3

    run(scene)


def test_nobody_is_asked_to_confirm_what_a_check_refuses() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        asked: list[int] = []

        async def confirm(snapshot: Snapshot, changes: Changes) -> None:
            asked.append(snapshot.version)

        live.check(lambda snapshot: "no")
        with pytest.raises(ConfigError):
            await live.propose(BETTER, who="ann", confirm=confirm)
        assert not asked

    run(scene)


def test_versions_may_be_somebody_elses() -> None:
    async def scene() -> None:
        live = Live(SCHEMA, GOOD, env=NO_ENV, version=41, key=b"k")
        assert live.current.version == 41
        assert (await live.propose(BETTER, who="ann", version=50)).snapshot.version == 50
        await live.close()

    asyncio.run(scene())


def test_a_start_is_noted_as_good_only_when_that_is_said(tmp_path: Path) -> None:
    async def scene() -> None:
        live = Live(SCHEMA, GOOD, history=History(tmp_path), env=NO_ENV, noted=False)
        await live.flush()
        assert (live.history.entries, History(tmp_path).last_good) == ((), None)
        live.note(who="start")
        await live.close()
        assert [entry.version for entry in live.history.entries] == [1]
        found = History(tmp_path).last_good
        assert found is not None
        assert (found[0], found[1].values) == (1, GOOD.values)

    asyncio.run(scene())


def test_what_only_somebody_outside_knows_to_be_secret_is_not_shown_either(tmp_path: Path) -> None:
    async def scene() -> None:
        schema = Schema({"settings": dict})
        live = Live(schema, values(settings={"dsn": "pw-one"}), history=History(tmp_path), env=NO_ENV, noted=False)
        live.hide([("settings", "dsn")])
        live.note(who="start")

        async def confirm(snapshot: Snapshot, changes: Changes) -> list[Place]:
            return [("settings", "dsn"), ("settings", "gone")]

        applied = await live.propose(values(settings={"dsn": "pw-two", "x": 1}), who="ann", confirm=confirm)
        await live.close()
        assert [str(change) for change in applied.changes.items] == [
            f"settings.dsn: {BLOT} -> {BLOT}",
            "settings.x: '<absent>' -> 1".replace("'", ""),
        ]
        assert live.current.redacted() == {"settings": {"dsn": BLOT, "x": 1}}
        kept = "".join(path.read_text() for path in (tmp_path / "versions").iterdir())
        kept += (tmp_path / "history.jsonl").read_text()
        assert "pw-" not in kept

    asyncio.run(scene())


def test_another_version_of_the_same_is_a_change_for_those_who_confirm() -> None:
    async def scene(live: Live, _: VirtualClock) -> None:
        seen: list[int] = []

        async def confirm(snapshot: Snapshot, changes: Changes) -> None:
            seen.append(snapshot.version)

        applied = await live.propose(GOOD, who="ann", version=9, confirm=confirm)
        assert (seen, live.current.version, applied.changes.total) == ([9], 9, 0)

    run(scene)
