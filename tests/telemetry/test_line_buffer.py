import contextlib
import fcntl
import logging
import os
import pty
import random
import re
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from holdfast.telemetry.line_buffer import FLUSH_SIZE, KEEP_LIMIT, LineBuffer
from holdfast.telemetry.logs import Handler

SMALLEST_PIPE = 4096


def notice(lines: int, why: str) -> str:
    return f"lost {lines}: {why}\n"


@contextlib.contextmanager
def piped(make: Callable[[], tuple[int, int]] = os.pipe) -> Iterator[tuple[int, Handler]]:
    """A descriptor to read from, and a handler that writes to its other end."""
    reader, writer = make()
    try:
        with os.fdopen(writer, "w") as stream:
            yield reader, Handler(stream)
    finally:
        with contextlib.suppress(OSError):
            os.close(reader)


def sockets() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def read(reader: int) -> str:
    """What is there now."""
    found = b""
    while select.select([reader], [], [], 0)[0] and (more := os.read(reader, 65536)):
        found += more
    return found.decode()


def filled(buffer: LineBuffer, lines: int, size: int = 200) -> None:
    for number in range(lines):
        buffer.add(f"{number} ".ljust(size - 1, "x").encode() + b"\n")


def numbers(text: str) -> list[int]:
    return [int(line.split()[0]) for line in text.split("\n") if line and not line.startswith("lost")]


def test_lines_wait_for_a_flush() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        buffer.add(b"one\n")
        buffer.add(b"two\n")
        assert read(reader) == ""
        buffer.flush()
        assert read(reader) == "one\ntwo\n"
        buffer.flush()
        assert read(reader) == ""
        assert not buffer


def test_many_lines_do_not_wait() -> None:
    with piped() as (reader, handler):
        filled(LineBuffer(handler, notice), FLUSH_SIZE // 200 + 1)
        assert numbers(read(reader))[:3] == [0, 1, 2]


@pytest.mark.parametrize("make", [os.pipe, sockets, pty.openpty], ids=["pipe", "socket", "terminal"])
def test_a_reader_who_is_behind_gets_whole_lines_and_learns_what_is_missing(
    make: Callable[[], tuple[int, int]],
) -> None:
    with piped(make) as (reader, handler):
        buffer = LineBuffer(handler, notice)
        filled(buffer, 20_000)
        text = ""
        for _ in range(10_000):
            buffer.flush()
            more = read(reader)
            text += more
            if not more and not buffer:
                break
        buffer.add(b"20000 again\n")
        buffer.flush()
        text = (text + read(reader)).replace("\r\n", "\n")
        told = [int(number) for number in re.findall(r"^lost (\d+): nobody read them$", text, re.MULTILINE)]
        whole = [line for line in text.split("\n") if re.fullmatch(r"\d+ x+", line) and len(line) == 199]
        assert buffer.lost > 10_000
        assert sum(told) == buffer.lost
        assert not [line for line in text.split("\n") if line.startswith("x")], "the end of a line that was torn"
        assert len(whole) == 20_000 - buffer.lost
        assert numbers("\n".join(whole)) == sorted(numbers("\n".join(whole)))
        assert text.endswith("\n20000 again\n")


def test_what_is_kept_is_bounded() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        filled(buffer, 50_000)
        buffer.flush()
        kept = 50_000 - buffer.lost - len(numbers(read(reader)))
        assert KEEP_LIMIT / 200 - 2 <= kept <= KEEP_LIMIT / 200


def test_the_end_waits_for_a_reader_but_not_for_ever() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        filled(buffer, 600)
        buffer.close()
        got = numbers(read(reader))
        assert buffer.lost == 600 - len(got) > 0
        buffer.add(b"later\n")
        buffer.flush()
        assert read(reader) == f"lost {buffer.lost}: nobody read them\nlater\n"


def test_the_end_gives_a_living_reader_everything() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        filled(buffer, 900)
        taken: list[bytes] = []

        def take() -> None:
            while not (taken and taken[-1].endswith(b"\n") and b"899 " in taken[-1]):
                taken.append(os.read(reader, 1 << 20))

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        buffer.close(patience=30)
        thread.join(30)
        assert numbers(b"".join(taken).decode()) == list(range(900))
        assert buffer.lost == 0


def test_the_end_does_not_wait_for_a_reader_who_is_gone() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        os.close(reader)
        filled(buffer, 10)
        buffer.close(patience=3600)
        assert buffer.lost == 10


def test_a_reader_who_is_gone_costs_the_lines_and_nothing_else() -> None:
    with piped() as (reader, handler):
        os.close(reader)
        buffer = LineBuffer(handler, notice)
        for _ in range(5):
            filled(buffer, 10)
            buffer.flush()
            buffer.flush()
        assert buffer.lost == 50, "the notices that could not be written do not count"


def test_a_closed_stream_and_a_full_disk_and_none_cost_the_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as full:
        buffer = LineBuffer(Handler(full), notice)
        filled(buffer, 3)
        buffer.flush()
        assert buffer.lost == 3
    filled(buffer, 3)
    buffer.flush()
    assert buffer.lost == 6
    nowhere: TextIO = None  # type: ignore[assignment]
    buffer.handler = Handler(nowhere)
    filled(buffer, 3)
    buffer.flush()
    assert buffer.lost == 9


def test_a_disk_that_gets_full_within_a_line_leaves_the_next_one_whole(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a") as stream:
        handler = Handler(stream)
        buffer = LineBuffer(handler, notice)
        filled(buffer, 3, size=400)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            buffer.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        handler.emit(logging.LogRecord("shop", logging.INFO, "", 0, "theirs", None, None))
        buffer.close()
    assert buffer.lost == 1
    lines = (tmp_path / "log").read_text().split("\n")
    assert [len(line) for line in lines[:3]] == [399, 399, 200]
    assert lines[3:] == ["theirs", "lost 1: File too large", ""]


def test_what_was_lost_is_told_when_the_stream_is_back() -> None:
    with open("/dev/full", "w") as full, piped() as (reader, handler):
        buffer = LineBuffer(Handler(full), notice)
        filled(buffer, 3)
        buffer.flush()
        buffer.flush()
        buffer.handler = handler
        buffer.flush()
        assert read(reader) == "lost 3: No space left on device\n"
        assert not buffer


def test_a_regular_file_gets_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a") as stream:
        buffer = LineBuffer(Handler(stream), notice)
        filled(buffer, 20_000)
        buffer.close()
    assert buffer.lost == 0
    assert numbers((tmp_path / "log").read_text()) == list(range(20_000))


def test_the_descriptor_stays_as_it_is_for_those_who_share_it() -> None:
    with piped() as (_, handler):
        buffer = LineBuffer(handler, notice)
        filled(buffer, 5000)
        buffer.close()
        assert os.get_blocking(handler.stream.fileno())


def test_lines_wait_while_another_thread_logs() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        held, done = threading.Event(), threading.Event()

        def log() -> None:
            with handler.lock or contextlib.nullcontext():
                held.set()
                done.wait(30)

        thread = threading.Thread(target=log)
        thread.start()
        assert held.wait(30)
        buffer.add(b"one\n")
        buffer.flush()
        assert read(reader) == ""
        done.set()
        thread.join(30)
        buffer.flush()
        assert read(reader) == "one\n"


def test_a_line_that_lost_its_end_does_not_swallow_the_next() -> None:
    with piped() as (reader, handler):
        handler.emit(logging.LogRecord("shop", logging.INFO, "", 0, "y" * 200_000, None, None))
        assert handler.torn
        read(reader)
        buffer = LineBuffer(handler, notice)
        buffer.add(b"mine\n")
        buffer.flush()
        assert read(reader).endswith("\nmine\n")
        assert not handler.torn


def test_a_line_torn_here_does_not_swallow_the_next_of_the_handler() -> None:
    with piped() as (reader, handler):
        buffer = LineBuffer(handler, notice)
        buffer.add(b"y" * 200_000 + b"\n")
        read(reader)
        assert buffer.lost == 1
        handler.emit(logging.LogRecord("shop", logging.INFO, "", 0, "theirs", None, None))
        assert "\ntheirs\n" in read(reader)
        buffer.flush()
        assert read(reader) == "lost 1: nobody read them\n", "and not the end of what was torn off"


def test_processes_that_share_a_pipe_do_not_tear_each_others_lines() -> None:
    code = (
        "import sys\n"
        "from holdfast.telemetry.line_buffer import LineBuffer\n"
        "from holdfast.telemetry.logs import Handler\n"
        "buffer = LineBuffer(Handler(sys.stderr), lambda lines, why: f'lost {lines}\\n')\n"
        "for number in range(4000):\n"
        "    buffer.add(f'{sys.argv[1]} {number} '.encode().ljust(300 + 37 * (number % 90), b'x') + b'\\n')\n"
        "buffer.close(30)"
    )
    reader, writer = os.pipe()
    many = [subprocess.Popen([sys.executable, "-c", code, name], stderr=writer) for name in "abc"]
    os.close(writer)
    with os.fdopen(reader) as stream:
        lines = stream.read().split("\n")
    assert [process.wait(60) for process in many] == [0, 0, 0]
    assert lines.pop() == ""
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("lost"))
    found = [re.fullmatch(r"([abc]) (\d+) x*", line) for line in lines if not line.startswith("lost")]
    for match in found:
        assert match, "a line is torn"
        assert len(match[0]) == 300 + 37 * (int(match[2]) % 90)
    assert len(found) + lost == 12_000


class Reading(RuleBasedStateMachine):
    """Lines that a reader gets, now and then and in parts, against the list of all that were added."""

    KEEP = 32 * 1024

    def __init__(self) -> None:
        super().__init__()
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        self.stream = os.fdopen(writer, "w")
        self.buffer = LineBuffer(Handler(self.stream), notice, flush_size=4096, keep=self.KEEP)
        self.added: list[str] = []
        self.got = ""

    @rule(seed=st.integers(0, 1 << 16), lines=st.integers(1, 30))
    def add(self, seed: int, lines: int) -> None:
        rng = random.Random(seed)
        for _ in range(lines):
            line = f"{len(self.added)} ".ljust(rng.choice((10, 500, 4000)), "x") + "\n"
            self.added.append(line)
            self.buffer.add(line.encode())

    @rule()
    def flush(self) -> None:
        self.buffer.flush()

    @rule(size=st.sampled_from([1, 1000, 4096]))
    def read(self, size: int) -> None:
        if select.select([self.reader], [], [], 0)[0]:
            self.got += os.read(self.reader, size).decode()

    def teardown(self) -> None:
        for _ in range(self.KEEP):
            self.buffer.flush()
            more = read(self.reader)
            self.got += more
            if not more and not self.buffer:
                break
        self.stream.close()
        os.close(self.reader)
        place = lost = 0
        for line in self.got.splitlines(keepends=True):
            missing = re.fullmatch(r"lost (\d+): nobody read them\n", line)
            if missing:
                place += int(missing[1])
                lost += int(missing[1])
            else:
                assert line == self.added[place]
                place += 1
        assert place == len(self.added)
        assert lost == self.buffer.lost


TestReading = Reading.TestCase
TestReading.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
