import os
import random
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.telemetry.requestid import ID_LIMIT, STOCK, RequestIds, taken_over


@pytest.mark.parametrize(
    "value",
    [
        b"f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        b"01ARZ3NDEKTSV4RRFFQ69G5FAV",
        b"Root=1-67891233-abcdef012345678912345678",
        b"dGhlIHNhbXBsZSBub25jZQ==",
        b"7",
        b"x" * ID_LIMIT,
    ],
)
def test_the_known_kinds_of_ids_are_taken_over_as_they_are(value: bytes) -> None:
    assert taken_over(value) == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * (ID_LIMIT + 1),
        b"two words",
        b"a\r\nset-cookie: b",
        b"a\n",
        b'a"b',
        b"a\\b",
        b"${jndi:ldap://x}",
        b"a$b",
        b"<script>",
        b"a%0ab",
        b"=1+1",
        b"-1",
        b"@x",
        b"\x1b[2J",
        b"a\x00",
        b"a;b",
        "grüße".encode(),
    ],
)
def test_what_is_odd_is_not_taken_over(value: bytes) -> None:
    assert taken_over(value) is None


@given(st.binary(max_size=ID_LIMIT + 2))
def test_whatever_is_taken_over_is_short_visible_and_unchanged(value: bytes) -> None:
    known = taken_over(value)
    if known is not None:
        assert known.encode("ascii") == value
        assert re.fullmatch(r"[!-~]{1,128}", known)
        assert not set(known) & set("\"'\\<>$%{};,")


def test_only_a_trusted_sender_names_the_request() -> None:
    ids = RequestIds()
    assert ids.of(b"abc", trusted=True) == "abc"
    for other in (ids.of(b"abc", trusted=False), ids.of(None, trusted=True), ids.of(b"a b", trusted=True)):
        assert re.fullmatch(r"[0-9a-f]{32}", other)


def test_fresh_ids_are_the_systems_random_bits_and_each_is_had_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = 7
    rng = random.Random(seed)
    given_out: list[bytes] = []

    def urandom(size: int) -> bytes:
        given_out.append(rng.randbytes(size))
        return given_out[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    ids = RequestIds()
    found = [ids.fresh() for _ in range(3 * STOCK)]
    assert len(given_out) == 3, "one call of the system for many ids"
    bits = b"".join(given_out).hex()
    assert sorted(found) == sorted(bits[start : start + 32] for start in range(0, len(bits), 32))


def test_two_processes_have_nothing_in_common() -> None:
    one, other = RequestIds(), RequestIds()
    assert len({ids.fresh() for ids in (one, other) for _ in range(1000)}) == 2000


def test_threads_do_not_get_the_same_id() -> None:
    ids = RequestIds()
    found: list[list[str]] = [[] for _ in range(4)]
    start = threading.Barrier(4)

    def take(mine: list[str]) -> None:
        start.wait(30)
        mine.extend(ids.fresh() for _ in range(5000))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({one for mine in found for one in mine}) == 20_000
