"""The way a change of the configuration takes: parse, validate, ask, swap, tell. Until the swap nothing has changed."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from holdfast.config.document import Document
from holdfast.config.history import History
from holdfast.config.hooks import CHANGE_TIMEOUT, CHECK_TIMEOUT, HOOKS_LIMIT, Check, Hook, looked_at
from holdfast.config.mistakes import Place, all_of, each
from holdfast.config.reader import blotted_error
from holdfast.config.schema import Schema
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError, Overloaded
from holdfast.core.watch import Watch

if TYPE_CHECKING:
    from holdfast.config.diff import Changes

PENDING_LIMIT: Final = 16
"""Proposals that may wait for their turn."""
TURN_TIMEOUT: Final = 60.0
"""Seconds that a proposal waits for its turn."""
READ_TIMEOUT: Final = 30.0
"""Seconds that reading and validating may take."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that closing waits for the disk."""

Proposal: TypeAlias = Document | Callable[[], Document]
Confirm: TypeAlias = Callable[[Snapshot, "Changes"], Awaitable[Collection[Place] | None]]
"""The last word on a proposal, of somebody outside: with the snapshot as it would be. A ``ConfigError`` refuses.

It may return the places of values that are secret, which it knows and the schema does not.
"""


class Applied(msgspec.Struct, frozen=True):
    """What came of a proposal. With no ``changes`` nothing was swapped, and nobody was told.

    ``new_generation``: something has changed that running workers cannot take over. ``deaf`` names the hooks that
    failed when they were told.
    """

    snapshot: Snapshot
    changes: "Changes"
    new_generation: bool = False
    deaf: tuple[str, ...] = ()


class Live:
    """Holds the snapshot that is current, and changes it. One event loop; ``current`` may be read from any thread.

    Starts with ``document``; raises ``ConfigErrors`` when that is not good, before anything else happens. ``env`` is
    where secrets are looked up, by default the process's environment. ``key`` is for digests: that of the history
    when there is one. ``version`` is what the first snapshot gets, by default the one after the history's. Making one
    reads files, and writes the history; without ``noted`` only ``note`` does, once it is known that the first is good.
    """

    def __init__(
        self,
        schema: Schema,
        document: Document,
        *,
        history: History | None = None,
        clock: Clock = SYSTEM,
        env: Mapping[str, str] | None = None,
        key: bytes = b"",
        version: int | None = None,
        noted: bool = True,
        who: str = "start",
        why: str = "",
    ) -> None:
        self.schema = schema
        self.history = history if history is not None else History()
        self.key = key or (self.history.key if history is not None else secrets.token_bytes(32))
        self._clock = clock
        self._env = os.environ if env is None else env
        if version is None:
            version = self.history.version + 1
        first = schema.read(document, version=version, env=self._env, key=self.key)
        self.watch: Watch[Snapshot] = Watch(first)
        """The current snapshot, and a stream of later ones."""
        self._checks: list[Hook] = []
        self._hooks: list[Hook] = []
        self._turn = asyncio.Lock()
        self._pending = 0
        self._telling: asyncio.Task[tuple[str, ...]] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[Snapshot] | None = None
        if noted:
            self.history.applied(first, None, at=clock.wall(), who=who, why=why)
            self.history.write()

    @property
    def current(self) -> Snapshot:
        """What holds now."""
        return self.watch.current

    def check(self, call: Check, *sections: str, timeout: float = CHECK_TIMEOUT) -> Callable[[], None]:
        """Ask ``call``, with the new snapshot, before a change of ``sections`` takes hold; without any, of all.

        It refuses by raising or by returning a reason or False. It may be a coroutine function; a plain one runs in a
        thread and may block. After ``timeout`` seconds it counts as a refusal. Returns what ends this.
        ``verify`` asks about what holds already.
        """
        return self._registered(self._checks, call, sections, timeout)

    def on_change(self, call: Check, *sections: str, timeout: float = CHANGE_TIMEOUT) -> Callable[[], None]:
        """Tell ``call``, with the new snapshot, once a change of ``sections`` has taken hold; without any, of all.

        It cannot refuse any more: what it raises is logged, and named in ``Applied.deaf``. A plain function runs on the
        event loop and must not block; a coroutine has ``timeout`` seconds. Returns what ends this.
        """
        return self._registered(self._hooks, call, sections, timeout)

    async def verify(self) -> None:
        """Ask all checks about what holds now. Raises ``ConfigErrors`` with all refusals."""
        await self._ask(self.current, frozenset(self.schema.sections))

    def note(self, *, who: str, why: str = "") -> None:
        """Take what holds now into the history, and as the last good one: for one that was made not ``noted``."""
        self.history.applied(self.current, None, at=self._clock.wall(), who=who, why=why)
        self._write()

    def hide(self, places: Collection[Place]) -> None:
        """What is at ``places`` is secret: somebody knows that whom the schema does not. Nobody is told."""
        self.watch.set(self.current.hiding(places))

    async def propose(
        self, proposal: Proposal, *, who: str, why: str = "", version: int | None = None, confirm: Confirm | None = None
    ) -> Applied:
        """Make ``proposal``, a document or a function that reads one, the configuration. One proposal at a time.

        ``confirm`` is asked last, when all checks agree and something changes; it has no limit here. ``version`` is
        what the snapshot gets, by default the next; another one than the current is a change, even of nothing else.

        Raises ``ConfigErrors`` with all that is wrong, or with all refusals of the checks; then nothing has changed.
        Raises ``Overloaded`` when ``PENDING_LIMIT`` others wait, or the turn does not come. A cancellation before
        the swap leaves everything as it was; after it, the hooks are told all the same.
        """
        from holdfast.config.diff import changes  # with the first change: many a worker never sees one

        who, why = str(who), str(why)
        async with self._in_turn():
            try:
                candidate = await self._read(proposal)
                found = changes(self.current, candidate, self.schema)
                same = not found and candidate.digest == self.current.digest
                if same and version in (None, self.current.version):
                    return Applied(self.current, found)
                await self._ask(candidate, found.sections)
                snapshot = candidate.with_version(self.current.version + 1 if version is None else version)
                if confirm is not None and (hidden := await confirm(snapshot, found)):
                    snapshot = snapshot.hiding(hidden)
                    found = changes(self.current, snapshot, self.schema)
            except ConfigError as error:
                version = self.current.version
                self.history.refused(error, version=version, at=self._clock.wall(), who=who, why=why)
                self._write()
                raise
            self.watch.set(snapshot)
            self.history.applied(snapshot, found, at=self._clock.wall(), who=who, why=why)
            self._write()
            # A task of its own: whoever proposed this may go away, those who are told are told.
            self._telling = asyncio.create_task(self._tell(snapshot, found.sections))
            deaf = await asyncio.shield(self._telling)
            return Applied(snapshot, found, not found.live, deaf)

    async def rollback(self, version: int, *, who: str, why: str = "", confirm: Confirm | None = None) -> Applied:
        """Propose the document of ``version`` again; it gets a new version. Files of secrets are read anew.

        Raises ``ConfigError`` for a version that is not kept; else as ``propose``.
        """
        reason = f"rollback to {version}{f': {why}' if why else ''}"
        return await self.propose(lambda: self.history.document(version), who=who, why=reason, confirm=confirm)

    async def flush(self) -> None:
        """Wait until the history is on the disk, or the disk has failed."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def close(self) -> None:
        """Wait for the hooks that are being told, each of which has a limit, and ``CLOSE_TIMEOUT`` for the disk."""
        if self._telling is not None:
            await asyncio.wait({self._telling})
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=CLOSE_TIMEOUT)

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        if self._pending >= PENDING_LIMIT:
            raise Overloaded("config", f"{PENDING_LIMIT} proposals are waiting already")
        self._pending += 1
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError:
            raise Overloaded("config", f"other proposals took more than {TURN_TIMEOUT:g} s") from None
        finally:
            self._pending -= 1
        try:
            # The one before may have been cancelled while hooks were told: they hear of changes in their order.
            if self._telling is not None and not self._telling.done():
                await asyncio.wait({self._telling})
            yield
        finally:
            self._turn.release()

    async def _read(self, proposal: Proposal) -> Snapshot:
        previous = self.current

        def read() -> Snapshot:
            document = proposal if isinstance(proposal, Document) else proposal()
            return self.schema.read(document, env=self._env, key=self.key, previous=previous)

        if self._reading is not None and not self._reading.done():
            raise ConfigError("", None, "files that can be read", hint="an earlier proposal is still being read")
        # In a thread: files may be slow, and so may the user's types.
        self._reading = work = asyncio.get_running_loop().run_in_executor(None, read)
        work.add_done_callback(looked_at)
        await asyncio.wait({work}, timeout=READ_TIMEOUT)
        if not work.done():
            raise ConfigError("", None, f"files that can be read within {READ_TIMEOUT:g} s")
        return work.result()

    async def _ask(self, snapshot: Snapshot, sections: frozenset[str]) -> None:
        asked = [hook for hook in self._checks if hook.concerns(sections)]
        if not asked:
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(hook.asked(snapshot)) for hook in asked]
        texts = snapshot.secrets.values()
        refusals = [blotted_error(one, texts) for task in tasks if (error := task.result()) for one in each(error)]
        if refusals:
            raise all_of(refusals)

    async def _tell(self, snapshot: Snapshot, sections: frozenset[str]) -> tuple[str, ...]:
        told = [hook for hook in self._hooks if hook.concerns(sections)]
        if not told:
            return ()
        async with asyncio.TaskGroup() as group:
            tasks = [(hook, group.create_task(hook.told(snapshot))) for hook in told]
        return tuple(hook.name for hook, task in tasks if not task.result())

    def _write(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        # Off the way of the proposal: a disk that hangs costs the history, not the service.
        while self.history.unwritten:
            if not await asyncio.to_thread(self.history.write):
                return

    def _registered(
        self, hooks: list[Hook], call: Check, sections: tuple[str, ...], timeout: float
    ) -> Callable[[], None]:
        for name in sections:
            if name not in self.schema.sections:
                raise ValueError(f"there is no section {name!r}; there are {', '.join(self.schema.sections)}")
        if len(hooks) >= HOOKS_LIMIT:
            raise ValueError(f"there are {HOOKS_LIMIT} hooks already")
        hook = Hook(call, sections, timeout)
        hooks.append(hook)

        def end() -> None:
            if hook in hooks:
                hooks.remove(hook)

        return end
