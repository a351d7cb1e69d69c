"""How workers come to have the same configuration, with workers whose other end the test holds."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from holdfast.config.mistakes import ConfigErrors
from holdfast.supervisor import agreement
from holdfast.supervisor.agreement import ANSWER_LIMIT, ask, catch_up, keep_up, tell, voters
from holdfast.supervisor.channel import Agreed, Configured, Disagreed, Message, Mistake, Ready
from holdfast.supervisor.parcel import Parcel
from supervisor.test_worker_record import Peer

PARCEL = Parcel(4, "digest", b"", b"")
PATIENCE = 30.0


class Talking(Peer):
    """A worker that is ready, and answers what is scripted. ``told`` are the messages it got, by type."""

    def __init__(self, slot: int, *answers: Callable[[int], Message]) -> None:
        super().__init__(slot, 2**22 + 1 + slot)
        self.worker.state = "ready"
        self.answers = list(answers)
        self.told: list[str] = []
        self._task = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        while True:
            for message in self.heard():
                self.told.append(str(message["type"]))
                if message["type"] in ("Configure", "Apply") and self.answers:
                    await self.say(self.answers.pop(0)(int(str(message["ticket"]))))
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.end()


def agrees(ticket: int) -> Message:
    return Agreed(ticket, (("settings", "dsn"),))


def disagrees(ticket: int) -> Message:
    return Disagreed(ticket, (Mistake("settings.x", "'y'", "a number", "holdfast.toml:3", ""),))


def has_it(ticket: int) -> Message:
    return Configured(ticket, 4, "digest")


def run(scene: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again; whoever calls has a limit."""
    while not holds():  # noqa: ASYNC110 - a socket without a reader
        await asyncio.sleep(0.001)


def test_all_are_asked_then_all_are_told() -> None:
    async def scene() -> None:
        peers = [Talking(slot, agrees, has_it) for slot in range(3)]
        workers = [peer.worker for peer in peers]
        ticket, secrets = await ask(workers, PARCEL)
        assert secrets == {("settings", "dsn")}
        assert [worker.version for worker in workers] == [0, 0, 0]
        await tell(workers, ticket)
        assert [(worker.version, worker.digest, worker.refusal) for worker in workers] == [(4, "digest", "")] * 3
        for peer in peers:
            await peer.close()
            assert peer.told == ["Configure", "Apply"]

    run(scene)


def test_one_that_disagrees_speaks_for_all_and_the_others_forget() -> None:
    async def scene() -> None:
        peers = [Talking(0, agrees), Talking(1, disagrees), Talking(2, disagrees)]
        with pytest.raises(ConfigErrors) as caught:
            await ask([peer.worker for peer in peers], PARCEL)
        assert [str(one) for one in caught.value.errors] == ["holdfast.toml:3 settings.x: got 'y', expected a number"]
        for peer in peers:
            await peer.close()
            assert peer.told == ["Configure", "Forget"]
            assert peer.worker.version == 0

    run(scene)


def test_one_that_does_not_answer_says_no_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "ANSWER_LIMIT", 0.05)

    async def scene() -> None:
        peers = [Talking(0, agrees), Talking(1)]
        with pytest.raises(ConfigErrors, match=r"expected an answer of every worker .* worker 1 .* is blocked"):
            await ask([peer.worker for peer in peers], PARCEL)
        for peer in peers:
            await peer.close()

    run(scene)


@pytest.mark.parametrize("fate", ["hung", "draining"])
def test_the_silence_of_one_that_is_replaced_is_no_vote(monkeypatch: pytest.MonkeyPatch, fate: str) -> None:
    monkeypatch.setattr(agreement, "ANSWER_LIMIT", 0.05)

    async def scene() -> None:
        peers = [Talking(0, agrees), Talking(1)]
        asking = asyncio.create_task(ask([peer.worker for peer in peers], PARCEL))
        await asyncio.sleep(0)
        if fate == "hung":
            peers[1].worker.hung = True
        else:
            peers[1].worker.state = "draining"
        await asking
        for peer in peers:
            await peer.close()

    run(scene)


def test_one_that_dies_meanwhile_has_no_vote_and_keeps_nobody_waiting() -> None:
    async def scene() -> None:
        alive, dying = Talking(0, agrees), Talking(1)
        asking = asyncio.create_task(ask([alive.worker, dying.worker], PARCEL))
        await until(lambda: "Configure" in dying.told)
        await dying.close()
        ticket, _ = await asking
        assert ticket
        await alive.close()

    run(scene)


def test_the_limit_is_longer_than_a_check_of_the_app_may_take() -> None:
    assert ANSWER_LIMIT > 10.0


def test_a_cancelled_question_is_forgotten() -> None:
    async def scene() -> None:
        peer = Talking(0)
        asking = asyncio.create_task(ask([peer.worker], PARCEL))
        await until(lambda: "Configure" in peer.told)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await peer.close()
        assert peer.told == ["Configure", "Forget"]

    run(scene)


def test_one_that_cannot_follow_says_why_and_the_others_have_it() -> None:
    async def scene() -> None:
        peers = [Talking(0, has_it), Talking(1, disagrees)]
        await catch_up([peer.worker for peer in peers], PARCEL)
        assert [peer.worker.version for peer in peers] == [4, 0]
        assert peers[1].worker.refusal == "holdfast.toml:3 settings.x: got 'y', expected a number"
        for peer in peers:
            await peer.close()

    run(scene)


def test_a_worker_that_booted_during_changes_follows_to_the_last() -> None:
    async def scene() -> None:
        versions = iter((3, 4, 4))

        def has(version: int) -> Callable[[int], Message]:
            return lambda ticket: Configured(ticket, version, "digest")

        def now() -> Parcel:
            return Parcel(next(versions), "digest", b"", b"")

        peer = Talking(0, has(3), has(4))
        assert await keep_up(peer.worker, now) == ""
        assert peer.worker.version == 4
        await peer.close()
        unable = Talking(1, disagrees)
        assert "settings.x" in await keep_up(unable.worker, lambda: PARCEL)
        await unable.close()
        assert "exited" in await keep_up(unable.worker, lambda: PARCEL)

    run(scene)


def test_only_those_that_serve_are_asked() -> None:
    async def scene() -> None:
        peers = [Peer(slot, 2**22 + 1 + slot) for slot in range(3)]
        await peers[0].say(Ready())
        await peers[1].say(Ready())
        peers[1].worker.hung = True
        assert voters([None, *(peer.worker for peer in peers)]) == [peers[0].worker]
        for peer in peers:
            peer.end()

    run(scene)
