"""A ``with`` block under gates: for code that is no function, and for libraries that only offer hooks."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from holdfast.core.call import Call
from holdfast.core.classify import Classifier
from holdfast.core.policy import Gate


class Guard:
    """Enters the gates, outermost first, when the block begins, and exits them when it ends.

    For one block: it cannot be entered twice. ``with`` yields the ``Call``. The block's exception is classified;
    a block without one is ok, unless ``failed()`` was called. Use ``async with`` where a gate may wait.
    """

    __slots__ = ("_begun", "_call", "_classifier", "_failed", "_gates", "_held")

    def __init__(self, gates: Sequence[Gate[Any]], classifier: Classifier, call: Call) -> None:
        self._gates = gates
        self._classifier = classifier
        self._call = call
        self._held: list[tuple[Gate[Any], Any]] = []
        self._begun = False
        self._failed = False

    @property
    def call(self) -> Call:
        """The call that the block is."""
        return self._call

    def failed(self) -> None:
        """Count this block as a failure although no exception leaves it."""
        self._failed = True

    def __enter__(self) -> Self:
        self._begin()
        try:
            for gate in self._gates:
                self._held.append((gate, gate.admit(self._call) if gate.waits else gate.enter(self._call)))
        except BaseException:
            self._leave()
            raise
        return self

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            for gate in self._gates:
                self._held.append((gate, await gate.admit_async(self._call) if gate.waits else gate.enter(self._call)))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        call = self._call
        try:
            call.now = call.clock.now()
            if error is not None:
                call.verdict = self._classifier.of_error(error, call)
            else:
                call.verdict = self._classifier.of_block(self._failed)
        finally:  # an error class may have a check of its own, which may fail
            self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("a guard is for one block: make a new one with guard()")
        self._begun = True
        self._call.now = self._call.clock.now()

    def _leave(self) -> None:
        if self._held:
            gate, token = self._held.pop()
            try:
                gate.exit(self._call, token)
            finally:  # whatever happens in one, an interrupt perhaps, the others are left too
                self._leave()
