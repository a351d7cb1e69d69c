"""A configuration on its way from the supervisor to a worker, small enough for one message."""

import zlib
from typing import Any, Final

import msgspec

from holdfast.config.document import Document
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import ConfigError

PARCEL_LIMIT: Final = 512 * 1024
"""Bytes of a document when it is packed: with a third more for its way, it fits into a message."""
DOCUMENT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a document when it is unpacked."""
LEVEL: Final = 1
"""Of compression: the places that values come from repeat, and shrink well at any."""


class Parcel(msgspec.Struct, frozen=True):
    """One version of the configuration. ``key`` is what secrets are hashed with in digests."""

    version: int
    digest: str
    document: bytes
    key: bytes


def pack(snapshot: Snapshot, key: bytes) -> Parcel:
    """``snapshot`` for a worker, secrets included. ``ConfigError`` when it is too large. Takes a while when it is."""
    document = zlib.compress(msgspec.json.encode(snapshot.document.plain()), LEVEL)
    if len(document) > PARCEL_LIMIT:
        hint = f"packed it has {len(document)}"
        raise ConfigError("", None, f"a configuration of at most {PARCEL_LIMIT} bytes when it is packed", hint=hint)
    return Parcel(snapshot.version, snapshot.digest, document, key)


def unpack(parcel: Parcel) -> Document:
    """The document that ``pack`` took. ``ConfigError`` when it is none."""
    opened = zlib.decompressobj()
    try:
        plain: Any = msgspec.json.decode(opened.decompress(parcel.document, DOCUMENT_LIMIT))
    except (zlib.error, ValueError):  # what is cut off at the limit is no JSON
        raise ConfigError("", None, "a configuration as it was packed", hint="it is damaged") from None
    return Document.restored(plain)
