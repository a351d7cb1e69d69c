"""A service that is proposed things to, rolled back, restarted and damaged, beside a list of what should hold."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from config.sections import NO_ENV, SCHEMA, values
from effort import examples
from holdfast.config.document import Document
from holdfast.config.history import History, start_document
from holdfast.config.live import Live
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError

KEEP = 4
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one: each step waits for the disk
NUMBERS = st.integers(1, 6)
FILES = st.sampled_from(["history.jsonl", "last-good.json", "versions"])


def good(number: int) -> Document:
    return values(routes=[{"match": "a", "bulkhead": number}], errors={"n": str(number)})


def bad(number: int) -> Document:
    return values(routes=[{"match": "a", "bulkhead": -number}])


class Service(RuleBasedStateMachine):
    @initialize(number=NUMBERS)
    def start(self, number: int) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.clock = VirtualClock()
        self.history = History(self.directory / "history", keep=KEEP)
        self.refusing = False
        self.heard: list[tuple[int, int]] = []
        self.should_hear: list[tuple[int, int]] = []
        # What should hold: its number and version; then all proposals that are kept, and what is known to be damaged.
        self.number = number
        self.version = 1
        self.applied: dict[int, int] = {1: number}
        self.verdicts: list[tuple[int, str]] = [(1, "applied")]
        self.blocked = False
        self.lost: set[str] = set()
        self.open(good(number))

    def teardown(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def open(self, document: Document) -> None:
        self.live = Live(SCHEMA, document, history=self.history, clock=self.clock, env=NO_ENV)
        self.live.check(self.check, "routes")
        self.live.on_change(self.hear, "routes", "errors")

    def check(self, snapshot: Snapshot) -> Any:
        return "refused" if self.refusing else None

    def hear(self, snapshot: Snapshot) -> None:
        self.heard.append((snapshot.version, snapshot.routes[0].bulkhead))

    def run(self, work: Any) -> Any:
        async def main() -> Any:
            try:
                return await work
            finally:
                await self.live.flush()

        return self.clock.run(main())

    def expect(self, number: int) -> None:
        self.number = number
        self.version += 1
        self.applied[self.version] = number
        self.verdicts.append((self.version, "applied"))

    def refuses(self, work: Any) -> None:
        try:
            self.run(work)
        except ConfigErrors:
            self.verdicts.append((self.version, "refused"))
        else:
            raise AssertionError("it was to be refused")

    @rule(number=NUMBERS)
    def propose(self, number: int) -> None:
        self.refusing = False
        self.run(self.live.propose(good(number), who="a"))
        if number != self.number:
            self.expect(number)
            self.should_hear.append((self.version, number))

    @rule(number=NUMBERS)
    def propose_what_is_bad(self, number: int) -> None:
        self.refuses(self.live.propose(bad(number), who="a"))

    @rule(number=NUMBERS)
    def propose_what_a_check_refuses(self, number: int) -> None:
        self.refusing = True
        if number == self.number:
            self.run(self.live.propose(good(number), who="a"))
        else:
            self.refuses(self.live.propose(good(number), who="a"))

    @rule(data=st.data())
    def roll_back(self, data: Any) -> None:
        self.refusing = False
        version = data.draw(st.sampled_from(sorted(self.applied)), label="version")
        number = self.applied[version]
        try:
            self.run(self.live.rollback(version, who="a"))
        except ConfigError:
            # Only what fell out of the history, or was lost with it, cannot come back.
            kept = [one for one, verdict in self.verdicts[-KEEP:] if verdict == "applied"]
            assert version not in kept or self.lost or self.blocked
            self.verdicts.append((self.version, "refused"))
            return
        if number != self.number:
            self.expect(number)
            self.should_hear.append((self.version, number))

    @rule(name=FILES, cut=st.integers(0, 200))
    def damage(self, name: str, cut: int) -> None:
        path = self.directory / "history" / name
        for file in path.iterdir() if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                file.write_bytes(content[:cut] + b"\xff" + content[cut + 1 :])
                self.lost.add(name)

    @precondition(lambda self: not self.blocked)
    @rule()
    def break_the_disk(self) -> None:
        self.blocked = True
        versions = self.directory / "history" / "versions"
        versions.rename(self.directory / "away")
        versions.write_text("in the way")

    @precondition(lambda self: self.blocked)
    @rule()
    def mend_the_disk(self) -> None:
        self.blocked = False
        versions = self.directory / "history" / "versions"
        versions.unlink()
        (self.directory / "away").rename(versions)

    @rule(number=NUMBERS, wrong=st.booleans())
    def restart(self, number: int, wrong: bool) -> None:
        whole = not self.blocked and not self.lost and not self.history.unwritten
        self.history = History(self.directory / "history", keep=KEEP)
        document = bad(number) if wrong else good(number)
        before = self.history.version
        good_one = self.history.last_good
        if whole:
            assert before == self.version
            assert [(one.version, one.verdict) for one in self.history.entries] == self.verdicts[-KEEP:]
            assert good_one is not None
            assert good_one == (self.version, good(self.number))
        try:
            start = start_document(lambda: document, SCHEMA, self.history, env=NO_ENV, clock=self.clock)
        except ConfigErrors:
            assert wrong
            assert good_one is None
            self.restart(number, False)
            return
        if wrong:
            assert start.refused is not None
            assert good_one is not None
            assert start.document == good_one[1]
            # Whatever was damaged: a document that is used is one that was good.
            assert start.document.get(("routes", 0, "bulkhead")) in range(1, 7)
        else:
            assert (start.document, start.refused) == (document, None)
        # What is on disk is what counts now: the model takes over what of it is left.
        self.verdicts = [(one.version, one.verdict) for one in self.history.entries]
        self.version = self.history.version + 1
        self.number = start.document.get(("routes", 0, "bulkhead"))
        left = {version for version, verdict in self.verdicts if verdict == "applied"}
        self.applied = {version: found for version, found in self.applied.items() if version in left}
        self.applied[self.version] = self.number
        self.verdicts.append((self.version, "applied"))
        self.open(start.document)

    @invariant()
    def what_should_hold_holds(self) -> None:
        assert self.live.current.version == self.version
        assert self.live.current.routes[0].bulkhead == self.number
        assert self.live.current.errors == {"n": str(self.number)}
        assert [(one.version, one.verdict) for one in self.history.entries] == self.verdicts[-KEEP:]
        assert self.heard == self.should_hear
        assert len(self.history.entries) <= KEEP

    @invariant()
    def versions_only_grow(self) -> None:
        applied = [version for version, verdict in self.verdicts if verdict == "applied"]
        assert applied == sorted(set(applied))

    @invariant()
    def a_disk_that_works_has_everything(self) -> None:
        if not self.blocked and not self.history.unwritten:
            assert not self.history.trouble or self.lost


TestService = Service.TestCase
TestService.settings = settings(max_examples=examples(60), stateful_step_count=20, deadline=None)
