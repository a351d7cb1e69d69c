"""The configuration of a service: what holds, how it changes in all workers at once, and what is told of it.

A change comes from a file that was saved, from a command, or with a reload. It is read and checked here as far as that
can be done without the app. What workers can take over is asked of each of them; when all agree it holds, everywhere.
What they cannot is tried with a new generation; when that serves it holds. Until then nothing has changed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.config.diff import Change, Changes
from holdfast.config.document import Document
from holdfast.config.live import Applied, Proposal
from holdfast.config.mistakes import Place, each, place_text
from holdfast.config.secret import BLOT, files_of
from holdfast.config.signature import signature_of
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import BootError, ConfigError, HoldfastError
from holdfast.supervisor import provision
from holdfast.supervisor.agreement import APPLY_LIMIT, ask, catch_up, tell, voters
from holdfast.supervisor.beginning import Beginning, Source
from holdfast.supervisor.configured import ConfigApplied, ConfigHistory, ConfigStatus, WorkerConfig
from holdfast.supervisor.parcel import Parcel, pack
from holdfast.supervisor.process import Worker
from holdfast.supervisor.status import ConfigurationChanged, ConfigurationRefused

if TYPE_CHECKING:
    from holdfast.supervisor.master import Supervisor

logger = logging.getLogger("holdfast.supervisor")

FLUSH_LIMIT: Final = 5.0
"""Seconds that a re-exec waits for the disk."""
TOLD_LIMIT: Final = 20
"""Mistakes, and changes, that an event names."""
FILE: Final = "file"
"""Who proposes what was saved."""
SAVED: Final = "saved"
ROTATED: Final = "a secret's file has changed"
"""Why, when it was none of the layers."""


class Configurator:
    """Belongs to the supervisor's loop. One change at a time: it takes its turn among reloads and other commands."""

    def __init__(self, supervisor: "Supervisor", source: Source, beginning: Beginning) -> None:
        self.live = beginning.live
        self.refused = tuple(str(one) for one in each(beginning.refused)) if beginning.refused is not None else ()
        """What is wrong with the layers as they were last read, or with the secrets."""
        self.start_reason = beginning.reason
        self.applied_count = 0
        self.refused_count = len(self.refused[:1])
        self._supervisor = supervisor
        self._source = source
        self._watcher = beginning.watcher
        self._document = beginning.live.current.document
        """The layers as they were last read."""
        self._unread = beginning.refused is not None
        """Whether they were refused then."""
        self._hidden: frozenset[Place] = frozenset()
        """What workers have told to be secret."""
        self._next: tuple[Parcel, int, list[Worker]] | None = None
        self._boot_error: BootError | None = None
        self._generation = False
        self._reason = ""
        self._tried = ""
        self._waiting: list[str] = []
        self._by = ("start", "", time.time())
        self._provision: asyncio.TimerHandle | None = None
        self.live.check(source.check, "run")
        self.live.check(self._check_fixed, "run")
        self.live.on_change(self._spread, timeout=2 * APPLY_LIMIT)

    def packed(self) -> Parcel:
        """What holds now, for a worker. ``ConfigError`` when it is too large."""
        return pack(self.live.current, self.live.key)

    def follow(self, *, noted: bool) -> None:
        """A generation serves with what holds now: it is a good one. From now on notice what is saved."""
        self.live.hide(self._known_secrets())
        self._watch_secrets()
        if noted and self.live.current.version > (self.live.history.last_good or (0,))[0]:
            self.live.note(who="start")
        self._watcher.start()
        self._provision = provision.provide(provision.SUPERVISOR)
        self._supervisor.own(self._follow())

    async def apply(self, who: str, why: str = "") -> ConfigApplied:
        """Read all layers, and make that the configuration. Raises ``ConfigErrors``; then nothing has changed."""
        return await self._change(self._read, who, why)

    async def rollback(self, version: int, who: str, why: str = "") -> ConfigApplied:
        """Make an earlier version the configuration again, under a new number. The layers are not looked at until
        they change, or until a reload. Raises as ``apply``."""
        reason = f"rollback to {version}{f': {why}' if why else ''}"
        return await self._change(lambda: self.live.history.document(version), who, reason)

    async def reload(self, reason: str) -> None:
        """Boot a new generation with the layers as they are now. Called when it is the caller's turn.

        Raises ``BootError``, ``ConfigErrors``; then nothing has changed. The workers of before are not asked: they
        have the code of before.
        """
        self._generation, self._reason = True, f"reload ({reason})"
        self._tried = f"reload: {reason}"
        generation = self._supervisor.pool.generation
        try:
            await self._propose(self._read, "reload", reason)
            if self._supervisor.pool.generation == generation:  # nothing has changed
                await self._supervisor.renew(self.live.current.run, await self._pack(self.live.current), self._reason)
        finally:
            self._generation, self._tried = False, ""
        await self._supervisor.pool.settle()

    async def flush(self) -> None:
        """Before a re-exec: what is not on the disk by then is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_LIMIT):
                await self.live.flush()

    async def close(self) -> None:
        """Notice nothing any more, and take the history to the disk."""
        self._watcher.stop()
        if self._provision is not None:
            self._provision.cancel()
        await self.live.close()

    # -- what it tells

    def status(self) -> ConfigStatus:
        """What holds now, without secrets."""
        current, history = self.live.current, self.live.history
        who, why, at = self._by
        saved = self._saved() if self._watcher.changed.is_set() else ()
        workers = sorted(self._supervisor.pool.workers.values(), key=lambda one: (one.slot, one.serial))
        return ConfigStatus(
            version=current.version,
            digest=current.digest,
            at=at,
            who=who,
            why=why,
            values=current.redacted(),
            origins=_origins(current.document),
            workers=tuple(
                WorkerConfig(
                    slot=one.slot,
                    pid=one.pid,
                    generation=one.generation,
                    state="hung" if one.hung else one.state,
                    version=one.version,
                    digest=one.digest,
                    refusal=one.refusal,
                )
                for one in workers
            ),
            files=tuple(map(str, self._source.files)),
            directories=tuple(map(str, self._source.directories)),
            state_directory=str(history.directory or ""),
            refused=self.refused,
            tried=self._tried,
            waiting=(*self._waiting, *(_said(FILE, why) for why in saved))[:TOLD_LIMIT],
            start=self.start_reason,
            trouble=history.trouble,
            applied_count=self.applied_count,
            refused_count=self.refused_count,
        )

    def history(self) -> ConfigHistory:
        """What was proposed."""
        history = self.live.history
        return ConfigHistory(self.live.current.version, history.entries, history.trouble)

    # -- how it changes

    async def _change(self, proposal: Proposal, who: str, why: str) -> ConfigApplied:
        async with self._turn(who, why):
            return await self._change_now(proposal, who, why)

    @contextlib.asynccontextmanager
    async def _turn(self, who: str, why: str) -> AsyncIterator[None]:
        """The turn of a change, which waits for reloads and other changes. Nothing supersedes what is booting: what
        comes after it is read when its turn has come, and is the latest then."""
        told = _said(who, why)
        self._waiting.append(told)
        waits = True
        try:
            async with self._supervisor.turn():
                self._waiting.remove(told)
                waits, self._tried = False, told
                yield
        finally:
            if waits:
                self._waiting.remove(told)
            else:
                self._tried = ""

    async def _change_now(self, proposal: Proposal, who: str, why: str) -> ConfigApplied:
        began = time.monotonic()
        pool = self._supervisor.pool
        generation = pool.generation
        self._reason = f"configuration ({why or who})"
        try:
            applied = await self._propose(proposal, who, why)
        except BootError as error:
            raise self._without_generation(error) from error
        if pool.generation > generation:
            await pool.settle()
        return ConfigApplied(
            version=applied.snapshot.version,
            digest=applied.snapshot.digest,
            changes=applied.changes.items,
            total=applied.changes.total,
            generation=pool.generation if pool.generation > generation else 0,
            seconds=time.monotonic() - began,
        )

    async def _propose(self, proposal: Proposal, who: str, why: str) -> Applied:
        self._boot_error = None
        rotated = await asyncio.to_thread(self._rotated)
        # Another version is a change in each worker, which reads the secrets that only it knows to be some.
        version = self.live.current.version + 1 if rotated else None
        try:
            applied = await self.live.propose(proposal, who=who, why=why, version=version, confirm=self._confirm)
        except ConfigError as error:
            told = tuple(str(one) for one in each(error))
            if proposal in (self._read, self._again):
                self.refused = told
                self._unread = proposal == self._read
            self.refused_count += 1
            version = self.live.current.version
            self._supervisor.events.emit(
                lambda: ConfigurationRefused(time.time(), version, who, why, told[:TOLD_LIMIT], len(told))
            )
            if self._boot_error is not None:
                raise self._boot_error from None
            raise
        finally:
            self._watch_secrets()
        if proposal in (self._read, self._again):
            self.refused = ()
        if proposal == self._read:
            self._unread, self.start_reason = False, ""
            self._source.keep()
        if rotated:
            applied = _with_secrets(applied, rotated)
        if applied.changes:
            self.applied_count += 1
            self._by = (who, why, time.time())
            told = tuple(str(change) for change in applied.changes.items[:TOLD_LIMIT])
            snapshot, total = applied.snapshot, applied.changes.total
            self._supervisor.events.emit(
                lambda: ConfigurationChanged(time.time(), snapshot.version, snapshot.digest, who, why, told, total)
            )
        return applied

    async def _confirm(self, snapshot: Snapshot, found: Changes) -> frozenset[Place]:
        parcel = await self._pack(snapshot)
        if found.live and not self._generation:
            asked = voters(slot.worker for slot in self._supervisor.pool.slots)
            ticket, secrets = await ask(asked, parcel)
            self._next = parcel, ticket, asked
            return secrets
        try:
            await self._supervisor.renew(snapshot.run, parcel, self._reason)
        except BootError as error:
            self._boot_error = error
            raise self._without_generation(error) from error
        self._next = parcel, 0, []
        return self._known_secrets()

    async def _spread(self, snapshot: Snapshot) -> None:
        """It holds: whoever has agreed has it now, and whoever was not asked is told too."""
        assert self._next is not None
        (parcel, ticket, asked), self._next = self._next, None
        self._supervisor.take(snapshot.run, parcel)
        others = [
            worker
            for worker in self._supervisor.pool.workers.values()
            if worker.state in ("ready", "draining") and not worker.hung and worker not in asked
            if worker.version != parcel.version
        ]
        if others:
            self._supervisor.own(self._bring_up(others, parcel))
        await tell(asked, ticket)

    async def _bring_up(self, workers: list[Worker], parcel: Parcel) -> None:
        """Those that drain stay as they are when they cannot have it; one that serves is replaced."""
        await catch_up(workers, parcel)
        for worker in workers:
            if worker.refusal and worker.state == "ready" and worker.version < parcel.version:
                worker.leaving = f"it cannot have configuration {parcel.version}"

    async def _follow(self) -> None:
        watcher = self._watcher
        while True:
            await watcher.changed.wait()
            watcher.changed.clear()
            try:
                async with self._turn(FILE, "".join(self._saved())):
                    for why in self._saved():  # none: somebody has read it while this waited for its turn
                        # What holds may be an earlier version, rolled back to: for a secret the layers are left alone.
                        await self._change_now(self._read if why == SAVED else self._again, FILE, why)
            except HoldfastError as error:
                if not isinstance(error, ConfigError):  # that one is in the log and in the history
                    logger.error("what was saved is not applied: %s", error)
            except Exception:  # a fault of this code's own; the next change may be another
                logger.exception("what was saved could not be applied")

    def _saved(self) -> tuple[str, ...]:
        """Why there is something to be read that nobody has read yet; empty when there is nothing."""
        watcher = self._watcher
        if watcher.told == watcher.seen:
            return ()
        return (SAVED if watcher.saved or self._unread else ROTATED,)

    # Called in any thread, one at a time.

    def _read(self) -> Document:
        layers = signature_of(self._watcher.paths)
        try:
            self._document = self._source.document()
        finally:
            self._watcher.follow(self._files(lambda _: True), layers)
        return self._document

    def _again(self) -> Document:
        self._watcher.follow(self._watcher.secrets)
        return self.live.current.document

    def _files(self, secret: Callable[[Place], bool]) -> dict[Path, list[Place]]:
        return {**files_of(self._document, secret), **files_of(self.live.current.document, secret)}

    def _rotated(self) -> list[Place]:
        """The places of secrets that are known to workers alone, and whose files have changed."""
        schema = self.live.schema
        files = self._files(lambda place: place in self._hidden and not schema.is_secret(place))
        return [place for path in self._watcher.changed_among(files) for place in files[path]]

    # On the loop again.

    def _watch_secrets(self) -> None:
        """Of all files that are referred to, watch those of secrets: others may be written all the time."""
        self._hidden, schema = self._known_secrets(), self.live.schema
        self._watcher.narrow(self._files(lambda place: place in self._hidden or schema.is_secret(place)))

    async def _pack(self, snapshot: Snapshot) -> Parcel:
        return await asyncio.to_thread(pack, snapshot, self.live.key)

    def _check_fixed(self, snapshot: Snapshot) -> None:
        before = self.live.current.run.fixed()
        for name, value in snapshot.run.fixed().items():
            if value != before[name]:
                source = str(snapshot.origin(("run", name)))
                hint = "stop and start to change it"
                raise ConfigError(f"run.{name}", value, f"{before[name] or 'none'}, as at the start", source, hint)

    def _known_secrets(self) -> frozenset[Place]:
        workers = (slot.worker for slot in self._supervisor.pool.slots)
        return frozenset(place for worker in workers if worker is not None for place in worker.secrets)

    def _without_generation(self, error: BootError) -> ConfigError:
        return ConfigError("", None, "a configuration with which a new generation serves", hint=error.reason)


def _said(who: str, why: str) -> str:
    return f"{who}: {why}" if why else who


def _with_secrets(applied: Applied, places: list[Place]) -> Applied:
    """``applied``, with the secrets that it has changed in the workers."""
    found = applied.changes
    more = tuple(Change(place_text(place), BLOT, BLOT) for place in places)
    sections = found.sections | {str(place[0]) for place in places}
    told = Changes((*found.items, *more), found.total + len(more), sections, found.live)
    return msgspec.structs.replace(applied, changes=told)


def _origins(document: Document) -> dict[str, str]:
    found: dict[str, str] = {}

    def walk(value: Any, place: Place) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(inner, (*place, name))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, inner in enumerate(value):
                walk(inner, (*place, number))
        elif place:
            found[place_text(place)] = str(document.origin(place))

    walk(dict(document.values), ())
    return found
