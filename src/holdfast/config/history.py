"""What was proposed, by whom and why, and what became of it; and the last good configuration, for a bad start.

In a directory, or in memory only. The disk is never needed: when it is full, read-only or broken, ``trouble`` says so
and everything else goes on. Files are replaced whole, so that a crash leaves the old one or the new one; what is torn
or corrupt all the same is left out when it is read.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from holdfast.config.document import Document
from holdfast.config.mistakes import each
from holdfast.config.reading import read_file
from holdfast.config.schema import Schema
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.config.diff import Changes

logger = logging.getLogger(__name__)

KEPT: Final = 50
"""Proposals, and documents, that are kept unless told otherwise."""
WHO_LIMIT: Final = 200
WHY_LIMIT: Final = 1000
"""Characters of who and why."""
ERRORS_KEPT: Final = 20
CHANGES_KEPT: Final = 50
"""Mistakes and changes that are kept of one proposal."""
WORDS_LIMIT: Final = 300
"""Characters of one of them."""
HISTORY_LIMIT: Final = 8 * 1024 * 1024
DOCUMENT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of files that are read again."""
KEY_BYTES: Final = 32

_HISTORY: Final = "history.jsonl"
_GOOD: Final = "last-good.json"
_KEY: Final = "key"
_VERSIONS: Final = "versions"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class Entry(msgspec.Struct, frozen=True):
    """One proposal. ``at`` is Unix seconds. ``version`` is what it became or, refused, the one that stayed.

    ``errors`` and ``changes`` (place, before, after) are for people, shortened, without secrets.
    """

    version: int
    verdict: Literal["applied", "refused"]
    at: float
    who: str
    why: str = ""
    digest: str = ""
    errors: tuple[str, ...] = ()
    changes: tuple[tuple[str, str, str], ...] = ()


class Start(msgspec.Struct, frozen=True):
    """What to start with. ``refused``: what is wrong with the configuration that was meant, None when nothing is.

    ``reason`` says, for people, why another one is used.
    """

    document: Document
    refused: ConfigError | None = None
    reason: str = ""


class History:
    """The last ``keep`` proposals. Methods may be called from any thread; all but ``write`` only touch memory.

    Opening one reads its directory, which is made when it is missing, for its owner only.
    """

    def __init__(self, directory: Path | None = None, *, keep: int = KEPT) -> None:
        if keep < 1:
            raise ValueError(f"a history keeps at least 1 entry, not {keep}")
        self.directory = directory
        self.trouble = ""
        """Why the disk is not what it should be; empty when it is."""
        self.damaged = 0
        """Lines and files that could not be read."""
        self._keep = keep
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._documents: dict[int, Document] = {}
        self._unwritten: dict[int, tuple[Document, bool]] = {}
        self._good: tuple[int, Document] | None = None
        self._good_written = True
        self._entries_written = True
        self._highest = 0
        self.key = secrets.token_bytes(KEY_BYTES)
        """What secrets are hashed with in digests."""
        if directory is not None:
            self._load(directory)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The proposals that are kept, the oldest first."""
        with self._lock:
            return tuple(self._entries)

    @property
    def version(self) -> int:
        """The highest version that was ever applied, as far as it is known; 0 when none was."""
        with self._lock:
            return self._highest

    @property
    def last_good(self) -> tuple[int, Document] | None:
        """The version and the document that held last."""
        with self._lock:
            return self._good

    def applied(self, snapshot: Snapshot, changed: "Changes | None", *, at: float, who: str, why: str) -> None:
        """Note that ``snapshot`` holds now. In memory; ``write`` takes it to the disk."""
        told = changed.items if changed is not None else ()
        entry = Entry(
            version=snapshot.version,
            verdict="applied",
            at=at,
            who=_cut(who, WHO_LIMIT),
            why=_cut(why, WHY_LIMIT),
            digest=snapshot.digest,
            changes=tuple((_cut(c.path), _cut(_text(c.before)), _cut(_text(c.after))) for c in told[:CHANGES_KEPT]),
        )
        good = snapshot.for_disk(plain=True)[0]
        stored = snapshot.for_disk(plain=False)
        with self._lock:
            self._entries.append(entry)
            self._highest = max(self._highest, snapshot.version)
            self._documents[snapshot.version] = snapshot.document
            self._unwritten[snapshot.version] = stored
            for kept in (self._documents, self._unwritten):
                while len(kept) > self._keep:
                    del kept[min(kept)]
            self._good = (snapshot.version, good)
            self._good_written = self._entries_written = False

    def refused(self, error: ConfigError, *, version: int, at: float, who: str, why: str) -> None:
        """Note that a proposal was refused and ``version`` stayed. In memory; ``write`` takes it to the disk."""
        errors = tuple(_cut(str(one)) for one in each(error)[:ERRORS_KEPT])
        entry = Entry(version, "refused", at, _cut(who, WHO_LIMIT), _cut(why, WHY_LIMIT), errors=errors)
        with self._lock:
            self._entries.append(entry)
            self._entries_written = False

    def document(self, version: int) -> Document:
        """The document of ``version``, to propose again. ``ConfigError`` when it is not kept. May read a file."""
        with self._lock:
            found = self._documents.get(version)
        if found is not None:
            return found
        hint = f"there are {', '.join(map(str, self.versions()))}"
        if self.directory is not None:
            stored = self._stored(self.directory / _VERSIONS / f"{version}.json")
            if stored is not None and not stored[2]:
                hint = (
                    "there were secrets in it, which are not kept on disk; give them as { file = ... } or { env = ... }"
                )
            elif stored is not None:
                return stored[1]
        raise ConfigError("version", version, "a version that is kept", hint=hint)

    def versions(self) -> list[int]:
        """The versions that were applied, as far as they are kept."""
        return [entry.version for entry in self.entries if entry.verdict == "applied"]

    @property
    def unwritten(self) -> bool:
        """Whether there is anything that ``write`` would take to the disk."""
        with self._lock:
            return self.directory is not None and not (self._entries_written and self._good_written)

    def write(self) -> bool:
        """Take to the disk what is new. Blocks. False when that failed: then ``trouble`` says why, and it is logged."""
        if self.directory is None:
            return True
        with self._writing:
            with self._lock:
                entries = tuple(self._entries)
                documents = dict(self._unwritten)
                good = None if self._good_written else self._good
                self._entries_written = self._good_written = True
            try:
                self._write(self.directory, entries, documents, good)
            except OSError as error:
                self._failed(error)
                with self._lock:
                    self._entries_written = False
                    self._good_written = self._good_written and good is None
                return False
            with self._lock:
                self.trouble = ""
                for version, stored in documents.items():
                    if self._unwritten.get(version) is stored:
                        del self._unwritten[version]
            return True

    def _write(
        self,
        directory: Path,
        entries: tuple[Entry, ...],
        documents: Mapping[int, tuple[Document, bool]],
        good: tuple[int, Document] | None,
    ) -> None:
        versions = directory / _VERSIONS
        versions.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The last good one first: it is what a start needs. The lines last: they name what lies there already.
        if good is not None:
            replace_file(directory / _GOOD, _packed(good[0], good[1], True))
        for version, (document, whole) in documents.items():
            replace_file(versions / f"{version}.json", _packed(version, document, whole))
        replace_file(directory / _HISTORY, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        kept = {f"{entry.version}.json" for entry in entries if entry.verdict == "applied"}
        for path in versions.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> None:
        trouble = f"{error.filename or self.directory}: {error.strerror or error}"
        if trouble != self.trouble:
            logger.error("the history of the configuration cannot be written: %s", trouble)
        self.trouble = trouble

    def _load(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._failed(error)
            return
        self._load_key(directory / _KEY)
        for line in self._content(directory / _HISTORY, HISTORY_LIMIT).splitlines():
            try:
                self._entries.append(msgspec.json.decode(line, type=Entry))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.damaged += 1
        good = self._stored(directory / _GOOD)
        self._good = (good[0], good[1]) if good is not None else None
        # Of all that is left, so that no number is given twice when part of it is damaged.
        known = [entry.version for entry in self._entries] + [self._good[0] if self._good else 0]
        with contextlib.suppress(OSError):
            known += [int(path.stem) for path in (directory / _VERSIONS).iterdir() if _NUMBER.fullmatch(path.stem)]
        self._highest = max(known)
        if self.damaged:
            logger.warning("%d parts of the configuration's history in %s are damaged", self.damaged, directory)

    def _load_key(self, path: Path) -> None:
        found = self._content(path, KEY_BYTES)
        if len(found) == KEY_BYTES:
            self.key = found
            return
        try:
            replace_file(path, self.key)
        except OSError as error:
            self._failed(error)

    def _content(self, path: Path, limit: int) -> bytes:
        if not path.is_symlink() and not path.exists():
            return b""
        try:
            return read_file(path, limit=limit)
        except ConfigError as error:
            self.damaged += 1
            self.trouble = str(error)
            return b""

    def _stored(self, path: Path) -> tuple[int, Document, bool] | None:
        content = self._content(path, DOCUMENT_LIMIT)
        if not content:
            return None
        try:
            return _unpacked(content)
        except (ValueError, ConfigError):
            self.damaged += 1
            return None


def start_document(
    read: Callable[[], Document],
    schema: Schema,
    history: History,
    *,
    env: Mapping[str, str] | None = None,
    clock: Clock = SYSTEM,
    amend: Callable[[Document], Document] | None = None,
) -> Start:
    """What ``read`` gives, when ``schema`` takes it; else the last good document, with the reason, which is logged too.

    The refusal is noted in the history. ``amend`` makes of the last good one what is used in its place, with the flags
    of this start for example, or raises ``ConfigError``.

    Raises what is wrong with the first when there is no good one, or when that is not good any more. Blocks.
    """
    try:
        document = read()
        schema.read(document, env=env)
    except ConfigError as error:
        good = history.last_good
        if good is None:
            raise
        version, document = good
        try:
            document = document if amend is None else amend(document)
            schema.read(document, env=env)
        except ConfigError:
            raise error from None
        reason = f"the configuration is refused, version {version}, the last good one, is used in its place: {error}"
        logger.error("%s", reason)
        history.refused(error, version=version, at=clock.wall(), who="start", why="")
        return Start(document, error, reason)
    return Start(document)


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of the file at ``path``, whole or not at all. Raises ``OSError``. Blocks.

    Readable for its owner only, and on the disk before this returns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(file, "wb") as stream:  # noqa: PTH123  # a descriptor, not a path
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _packed(version: int, document: Document, whole: bool) -> bytes:
    body = json.dumps({"version": version, "whole": whole, "document": document.plain()}, separators=(",", ":"))
    return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n".encode()


def _unpacked(content: bytes) -> tuple[int, Document, bool]:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body.rstrip(b"\n")).hexdigest().encode() != digest:
        raise ValueError("it is not what was written")
    stored: Any = json.loads(body)
    return int(stored["version"]), Document.restored(stored["document"]), bool(stored["whole"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, limit: int = WORDS_LIMIT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
