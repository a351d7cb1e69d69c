import contextlib
import errno
import io
import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from holdfast.telemetry.outlet import PIECE, descriptor, is_file, put, reopened, writable

DATA = memoryview(b"x" * PIECE)


@pytest.fixture(autouse=True)
def _no_block() -> Iterator[None]:
    """A write that waits fails the test."""

    def blocked(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, blocked)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("platform", [sys.platform, "elsewhere"])
def test_a_pipe_takes_whole_pieces_until_it_is_full(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    reader, writer = os.pipe()
    taken = []
    while writable(writer):
        taken.append(put(writer, DATA))
    with pytest.raises(BlockingIOError):
        put(writer, DATA)
    assert set(taken) == {PIECE}
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert len(stream.read()) == PIECE * len(taken)


def test_a_reader_who_is_gone_and_a_closed_descriptor_are_errors() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        put(writer, DATA)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        put(writer, DATA)
    assert caught.value.errno == errno.EBADF


def test_a_file_takes_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert is_file(stream.fileno())
        assert put(stream.fileno(), DATA) == PIECE
    assert (tmp_path / "log").read_bytes() == DATA


def test_only_a_plain_text_file_has_a_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert descriptor(stream) == stream.fileno()
    assert descriptor(stream) is None
    assert descriptor(io.StringIO()) is None
    assert descriptor(io.TextIOWrapper(io.BytesIO())) is None


def test_a_terminal_opened_again_does_not_block_and_the_first_one_stays_as_it_is() -> None:
    ours, theirs = pty.openpty()
    own = reopened(theirs)
    assert own is not None
    try:
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                os.write(own, DATA)
        assert not os.get_blocking(own)
        assert os.get_blocking(theirs)
    finally:
        for each in (own, ours, theirs):
            os.close(each)


def test_what_is_no_terminal_is_not_opened_again() -> None:
    reader, writer = os.pipe()
    try:
        assert reopened(writer) is None
    finally:
        os.close(reader)
        os.close(writer)
