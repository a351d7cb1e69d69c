"""Pipelines that follow ``[pipelines]`` of the configuration, and their policies' state with them."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from holdfast.config.document import same
from holdfast.config.mistakes import all_of, place_text
from holdfast.config.snapshot import Snapshot
from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import nearest
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy
from holdfast.core.settings import PolicySettings

if TYPE_CHECKING:
    from holdfast.resilience.catalog import Change

SECTION: Final = "pipelines"
PIPELINES_LIMIT: Final = 1000
"""Pipelines of one service."""

log: Final = logging.getLogger("holdfast.service")


class Pipelines:
    """The pipelines of one service by name. ``follow`` belongs to one thread, that of the event loop."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._followers: dict[str, _Follower] = {}
        self._warned: set[str] = set()
        self._section: Mapping[str, Any] = {}

    def declare(self, name: str, policies: tuple[Policy[Any], ...], classify: Classifier | None) -> Pipeline:
        """The pipeline of that name, which is made when it is not there. ``ConfigError`` when it has policies already.

        From the first snapshot on that was followed, it is what the configuration says.
        """
        if not isinstance(name, str) or not name.strip():
            raise ConfigError("name", name, "a name", "pipeline", 'write service.pipeline("payments", ...)')
        found = self._followers.get(name)
        if found is not None:
            if policies or classify is not None:
                hint = "they are given where it is first asked for; everywhere else write the name alone"
                raise ConfigError("policies", None, "policies in one place only", f"pipeline {name!r}", hint)
            return found.pipeline
        if len(self._followers) >= PIPELINES_LIMIT:
            raise ConfigError("name", name, f"at most {PIPELINES_LIMIT} pipelines", "pipeline")
        pipeline = Pipeline(name, *policies, classify=classify or DEFAULT, clock=self._clock)
        follower = _Follower(pipeline)
        if name in self._section:
            follower.take(self._section[name], "")
        self._followers[name] = follower
        return pipeline

    def check(self, snapshot: Snapshot) -> None:
        """Raise ``ConfigErrors`` for what no policies can be made of. Changes nothing; any thread."""
        mistakes = []
        for name, data in snapshot[SECTION].items():
            # One that no code has asked for yet is checked too: it may be asked for later.
            follower = self._followers.get(name) or _Follower(Pipeline(name))
            source = str(snapshot.origin((SECTION, name)))
            try:
                follower.prepared(data, source)
            except ConfigError as mistake:
                mistakes.append(mistake)
        if mistakes:
            raise all_of(mistakes)

    def follow(self, snapshot: Snapshot) -> None:
        """Make all of them what ``snapshot``, which has been checked, says; those it does not name, what code says."""
        self._section = snapshot[SECTION]
        for name, follower in self._followers.items():
            source = str(snapshot.origin((SECTION, name))) if name in self._section else ""
            follower.take(self._section.get(name), source)
        for name in self._section:
            if name not in self._followers and name not in self._warned and len(self._warned) < PIPELINES_LIMIT:
                self._warned.add(name)
                self._warn(name, str(snapshot.origin((SECTION, name))))

    def _warn(self, name: str, source: str) -> None:
        near = nearest(name, list(self._followers))
        known = f"there are {', '.join(sorted(self._followers))}" if self._followers else "it asks for none"
        hint = f"did you mean {near}?" if near else known
        log.warning("%s %s: the app asks for no pipeline of this name; %s", source, place_text((SECTION, name)), hint)


class _Follower:
    """One pipeline, and what code has made it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._origin: tuple[tuple[Policy[Any], PolicySettings], ...] = tuple(
            (policy, policy.settings) for policy in pipeline.policies
        )
        self._classifier = pipeline.classifier
        self._data: Any = None

    def take(self, data: Any, source: str) -> None:
        """Become what ``data`` says; with None, what code said. The same again does nothing."""
        if same(data, self._data):
            return
        if data is None:
            for policy, settings in self._origin:
                policy.replace_settings(settings)
            self.pipeline.replace(*(policy for policy, _ in self._origin), classify=self._classifier)
        else:
            self.prepared(data, source).apply()
        self._data = data

    def prepared(self, data: Any, source: str) -> "Change":
        """What ``take`` would do. ``ConfigError`` when it cannot be done."""
        from holdfast.resilience.catalog import prepare

        where = place_text((SECTION, self.pipeline.name))
        return prepare(self.pipeline, data, where=where, source=source, origin=self._origin)
