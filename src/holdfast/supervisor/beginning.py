"""With which configuration a supervisor begins: that of the layers, the last good one, or the predecessor's."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from holdfast.config.document import Document
from holdfast.config.history import History, start_document
from holdfast.config.live import Live
from holdfast.config.schema import Schema
from holdfast.config.secret import files_of
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import ConfigError
from holdfast.supervisor.parcel import unpack
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.watcher import Watcher

if TYPE_CHECKING:
    from holdfast.supervisor.upgrade import Resumed

logger = logging.getLogger("holdfast.supervisor")


class Source(Protocol):
    """Where the configuration comes from. Its methods may be called from any thread, and read files."""

    @property
    def schema(self) -> Schema:
        """The sections and their types; the app's own as any table."""

    @property
    def directories(self) -> Sequence[Path]:
        """Mounted ConfigMaps and Secrets."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that may hold settings, whether they are there or not."""

    @property
    def file(self) -> Path | None:
        """The one that is there."""

    def document(self) -> Document:
        """All layers as they are now. Raises ``ConfigErrors``."""

    def keep(self) -> None:
        """What was read last holds now."""

    def overlay(self) -> Document:
        """The variables and flags alone. Raises ``ConfigErrors``."""

    def settings(self, document: Document) -> Settings:
        """Those of ``[run]``, checked. Raises ``ConfigErrors``, for all sections."""

    def check(self, snapshot: Snapshot) -> None:
        """Raise ``ConfigError`` for settings that make no sense together."""

    def state(self, settings: Settings | None) -> Path | None:
        """Where the history of a service with these settings is kept; None for nowhere."""


class Beginning(msgspec.Struct, frozen=True):
    """What holds at first. ``refused``: what is wrong with the layers when it is the last good one; ``reason`` says
    so for people. ``watcher`` knows how the files were before they were read."""

    live: Live
    watcher: Watcher
    refused: ConfigError | None = None
    reason: str = ""


def begin(source: Source, resumed: "Resumed | None" = None) -> Beginning:
    """Read the layers. Raises ``ConfigErrors`` when they are wrong and there is no last good configuration either.

    Without a file or a directory there is nothing to keep a history of on disk. Blocks.
    """
    watcher = Watcher((*source.files, *source.directories))
    if resumed is not None:
        live = _resumed(source, resumed)
        if live is not None:
            return Beginning(live, watcher)  # nothing was read: the first look finds everything new
    watcher.seen = watcher.told = watcher.look()

    def checked(document: Document) -> Document:
        source.settings(document)
        return document

    overlay = source.overlay()  # a wrong flag is refused at once, whatever was good before
    history = _history(source)
    start = start_document(
        lambda: checked(source.document()), source.schema, history, amend=lambda good: checked(overlay.over(good))
    )
    source.keep()  # also when it is the last good one: that came from the file that is broken now
    good = history.last_good
    version = good[0] if good is not None and good[1] == start.document else None
    live = Live(source.schema, start.document, history=history, version=version, noted=False)
    watcher.follow(files_of(start.document, lambda _: True))  # which of them are secrets the workers will tell
    return Beginning(live, watcher, start.refused, start.reason)


def _history(source: Source, settings: Settings | None = None) -> History:
    if source.file is None and not source.directories:
        return History()
    if settings is None:
        try:
            settings = source.settings(source.document())
        except ConfigError:
            settings = None  # its place is guessed: it is needed now more than ever
    return History(source.state(settings))


def _resumed(source: Source, resumed: "Resumed") -> Live | None:
    """What the predecessor had. None when this code cannot read it, which its trial should have found."""
    parcel = resumed.configuration
    if parcel is None:  # one from before there were configurations
        try:
            source.settings(source.document())
        except ConfigError as error:
            logger.error("%s; the settings of before the upgrade stay", error)
            return Live(source.schema, Document.of({"run": resumed.settings}), noted=False)
        return None
    history = _history(source, source.schema.read(Document.of({"run": resumed.settings})).run)
    try:
        return Live(source.schema, unpack(parcel), history=history, key=parcel.key, version=parcel.version, noted=False)
    except ConfigError as error:
        logger.error("the configuration of before the upgrade is not understood: %s", error)
        return None
