"""A configuration reaches a worker as it was, or is refused before it is sent."""

import random

import msgspec
import pytest

from holdfast.config.document import Document, Origin
from holdfast.core.errors import ConfigError
from holdfast.supervisor.channel import MAX_FRAME, Configure, frame
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.parcel import PARCEL_LIMIT, Parcel, pack, unpack

SCHEMA = make_schema()


def test_values_and_origins_come_as_they_went() -> None:
    document = Document.of({"settings": {"currency": "EUR", "rates": [1, 2.5]}}, "file", "holdfast.toml")
    parcel = pack(SCHEMA.read(document, version=7, key=b"k"), b"k")
    assert (parcel.version, parcel.key) == (7, b"k")
    assert parcel.digest == SCHEMA.read(document, key=b"k").digest
    found = unpack(parcel)
    assert found == document
    assert found.origin(("settings", "currency")) == Origin("file", "holdfast.toml")


def test_a_thousand_routes_are_a_small_parcel() -> None:
    routes = [{"match": f"GET /shop/{number}/{{id}}", "timeout": "2s", "bulkhead": 20} for number in range(1000)]
    parcel = pack(SCHEMA.read(Document.of({"routes": routes}, "file", "holdfast.toml")), b"")
    assert len(parcel.document) < PARCEL_LIMIT / 10


def test_the_largest_parcel_fits_into_a_message() -> None:
    parcel = Parcel(1, "d" * 64, bytes(PARCEL_LIMIT), bytes(32))
    assert len(frame(Configure(2**63, parcel))) < MAX_FRAME


def test_one_that_is_too_large_is_refused_with_its_size() -> None:
    noise = random.Random(1)
    texts = ["".join(chr(noise.randrange(0x4E00, 0x9000)) for _ in range(20_000)) for _ in range(15)]
    with pytest.raises(ConfigError, match=f"at most {PARCEL_LIMIT} bytes when it is packed; packed it has"):
        pack(SCHEMA.read(Document.of({"settings": {"texts": texts}})), b"")


@pytest.mark.parametrize("content", [b"", b"no", b"\x78\x01\x03\x00\x00\x00\x00\x01"])
def test_a_damaged_one_is_refused(content: bytes) -> None:
    good = pack(SCHEMA.read(Document()), b"")
    with pytest.raises(ConfigError, match="damaged"):
        unpack(msgspec.structs.replace(good, document=content))
