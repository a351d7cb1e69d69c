from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lab.response import AnswerError, Heads, ResponseReader

CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
ANSWERS = st.sampled_from([CHUNKED, SIZED])


def reader() -> ResponseReader:
    return ResponseReader(Heads(), collect=True)


@given(ANSWERS, st.lists(st.integers(0, 250)))
def test_the_pieces_in_which_an_answer_arrives_make_no_difference(answer: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    reads = reader()
    results = [reads.feed(answer[a:b]) for a, b in pairwise(edges) if a != b]
    assert results == [False] * (len(results) - 1) + [True]
    assert (reads.status, reads.keep_alive, reads.body, reads.begun) == (200, True, b"hello world", len(answer))


@given(ANSWERS, st.data())
def test_no_part_of_an_answer_passes_for_the_whole(answer: bytes, data: st.DataObject) -> None:
    reads = reader()
    assert not reads.feed(answer[: data.draw(st.integers(0, len(answer) - 1))])
    assert not reads.end()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_wait_for_more(noise: bytes) -> None:
    try:
        whole = reader().feed(noise)
    except AnswerError:
        return
    assert not whole or noise.startswith(b"HTTP/1.")


def test_one_reader_reads_answer_after_answer() -> None:
    reads = reader()
    for answer in (SIZED, CHUNKED, SIZED):
        reads.expect()
        assert reads.feed(answer)
        assert reads.body == b"hello world"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_answers_have_no_body_whatever_their_head_says(status: bytes) -> None:
    assert reader().feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")


def test_an_answer_to_head_has_no_body() -> None:
    reads = reader()
    reads.expect(bodiless=True)
    assert reads.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 200", True),
    ],
)
def test_keep_alive_follows_the_version_and_the_connection_header(head: bytes, kept: bool) -> None:
    assert Heads().parse(head + b"\r\nContent-Length: 0").keep_alive is kept


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/2 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 099 No\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", "not a header"),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "not a header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not a number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "several values"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "only chunked"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "nobody asked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "longer than its size"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "longer than 65536"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2_000, "longer than 1024"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 101, "trailers"),
        (SIZED + b"x", "follow the end"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_reason(answer: bytes, complaint: str) -> None:
    with pytest.raises(AnswerError, match=complaint):
        reader().feed(answer)


def test_heads_remember_only_so_many() -> None:
    heads = Heads()
    for number in range(1000):
        assert heads.parse(b"HTTP/1.1 200 OK\r\nContent-Length: %d" % number).length == number
    assert len(heads._known) <= 64
