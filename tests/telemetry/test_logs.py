import contextlib
import io
import logging
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TextIO

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.telemetry.logs import MESSAGE_LIMIT, PATIENCE, Format, Handler, Json, configure

log = logging.getLogger("shop.orders")


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, hook = root.level, threading.excepthook
    yield
    logging.captureWarnings(False)
    for handler in ours():
        root.removeHandler(handler)
    root.setLevel(level)
    threading.excepthook = hook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def written(write: Callable[[], object], format: Format = "text", level: str = "info") -> str:  # noqa: A002
    stream = io.StringIO()
    configure(format=format, level=level, labels={"service": "shop", "worker": 1, "generation": 3}, stream=stream)
    root = logging.getLogger()
    present = list(root.handlers)
    root.handlers[:] = ours()  # pytest's own handlers raise on lines that cannot be formatted
    try:
        write()
    finally:
        root.handlers[:] = present
    return stream.getvalue()


def line(write: Callable[[], object]) -> dict[str, object]:
    text = written(write, format="json")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return msgspec.json.decode(text, type=dict[str, object])


def ours() -> list[Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, Handler)]


def fail() -> None:
    try:
        raise LookupError("no such order")
    except LookupError:
        log.exception("order failed")


def test_text_has_time_level_labels_logger_message_and_extra_fields() -> None:
    text = written(lambda: log.warning("paid %d", 5, extra={"order": 7}))
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING shop w1 g3 shop\.orders: paid 5 order=7\n", text)


def test_json_has_time_level_logger_message_labels_and_extra_fields() -> None:
    found = line(lambda: log.warning("paid %d", 5, extra={"order": 7, "tags": ["a"]}))
    stamp = datetime.fromisoformat(str(found.pop("timestamp")))
    assert stamp.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert found == {
        "level": "warning",
        "logger": "shop.orders",
        "message": "paid 5",
        "service": "shop",
        "worker": 1,
        "generation": 3,
        "order": 7,
        "tags": ["a"],
    }


def test_an_exception_is_written_with_its_stack() -> None:
    text = written(fail)
    assert "order failed\nTraceback" in text
    assert text.endswith("LookupError: no such order\n")
    stack = str(line(fail)["exception"])
    assert stack.startswith("Traceback")
    assert "LookupError: no such order" in stack
    assert "Stack (most recent call last)" in str(line(lambda: log.info("here", stack_info=True))["exception"])
    assert "exception" not in line(lambda: log.info("outside", exc_info=True))


def test_auto_is_coloured_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    configure(format="auto", stream=terminal)
    log.error("hello")
    configure(format="auto", stream=file)
    log.error("hello")
    assert "\x1b[31mERROR" in terminal.getvalue()
    assert msgspec.json.decode(file.getvalue())["message"] == "hello"
    assert "\x1b" not in written(lambda: log.error("hello"))


def test_json_stays_json_on_a_terminal() -> None:
    terminal = Terminal()
    configure(format="json", stream=terminal)
    log.error("hello")
    assert msgspec.json.decode(terminal.getvalue())["level"] == "error"


def test_lines_below_the_level_are_not_written() -> None:
    assert written(lambda: log.info("quiet"), level="warning") == ""
    assert "quiet" in written(lambda: log.debug("quiet"), level="DEBUG")


def test_an_unknown_level_or_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is no log level; give one of debug"):
        configure(level="loud")
    with pytest.raises(ValueError, match="'xml' is no log format"):
        configure(format="xml")  # type: ignore[arg-type]
    assert ours() == []


def test_a_second_set_up_replaces_the_first_and_leaves_others_alone() -> None:
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first)
    configure(stream=second)
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert len(ours()) == 1
    assert foreign in logging.getLogger().handlers


def test_the_default_stream_is_the_standard_error_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="text")
    log.info("to stderr")
    assert "to stderr" in capsys.readouterr().err


def test_warnings_become_log_lines() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(format="json", stream=stream)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    found = msgspec.json.decode(stream.getvalue())
    assert found["logger"] == "py.warnings"
    assert "old thing" in found["message"]


def test_a_failing_thread_is_logged_with_its_stack() -> None:
    def work() -> None:
        raise LookupError("thread broke")

    def start() -> None:
        thread = threading.Thread(target=work, name="pump")
        thread.start()
        thread.join(10)

    found = line(start)
    assert found["message"] == "thread pump failed"
    assert "thread broke" in str(found["exception"])


def test_a_thread_that_exits_on_purpose_is_not_logged() -> None:
    def start() -> None:
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join(10)

    assert written(start) == ""


def test_a_stream_that_is_gone_costs_the_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, Broken()):
        configure(format="text", stream=stream)
        log.error("lost")
        assert ours()[0].lost == 1
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_real_broken_pipe_costs_the_line_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        configure(format="json", stream=stream)
        log.error("lost")
        log.error("lost again")
        assert ours()[0].lost == 2


def test_no_stream_and_a_closed_one_and_a_full_disk_cost_the_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        configure(format="text")
    log.error("lost")
    assert ours()[0].lost == 1
    with open("/dev/full", "w") as full:
        configure(format="text", stream=full)
        log.error("lost")
        assert ours()[0].lost == 1
    log.error("lost again")
    assert ours()[0].lost == 2


@contextlib.contextmanager
def unread(make: Callable[[], tuple[int, int]]) -> Iterator[tuple[int, TextIO]]:
    """A descriptor to read from, and a stream into it. A write that blocks fails the test after a while."""

    def blocked(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the log blocks")

    reader, writer = make()
    before = signal.signal(signal.SIGALRM, blocked)
    signal.alarm(10)
    root = logging.getLogger()
    present = list(root.handlers)
    try:
        with os.fdopen(writer, "w") as stream:
            configure(format="text", stream=stream)
            root.handlers[:] = ours()  # pytest's own keep everything
            yield reader, stream
    finally:
        root.handlers[:] = [*present, *ours()]
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.close(reader)


def read(reader: int) -> str:
    """What is there now."""
    found = b""
    while select.select([reader], [], [], 0)[0] and (more := os.read(reader, 65536)):
        found += more
    return found.decode()


def sockets() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


@pytest.mark.parametrize("make", [os.pipe, sockets, pty.openpty], ids=["pipe", "socket", "terminal"])
def test_a_log_that_nobody_reads_holds_nobody_up_and_tells_later_what_was_lost(
    make: Callable[[], tuple[int, int]],
) -> None:
    with unread(make) as (reader, _):
        began = time.monotonic()
        for number in range(3000):
            log.info("line %d %s", number, "x" * 150)
        assert time.monotonic() - began < 5
        lost = ours()[0].lost
        assert lost > 100
        early = read(reader)
        log.info("read again")
        late = read(reader)
        log.info("and again")
        last = read(reader)
    kept = [int(number) for number in re.findall(r"line (\d+) x{150}\r?\n", early)]
    assert kept == list(range(3000 - lost)), "in order, from the first one on, and each whole"
    assert f"holdfast.telemetry.logs: {lost} log lines were lost: nobody read them" in late
    assert re.search(r"^\S+ INFO +shop\.orders: read again\r?$", late, re.MULTILINE)
    assert "lost" not in last


def test_a_line_longer_than_a_full_pipe_is_torn_and_the_next_begins_anew() -> None:
    with unread(os.pipe) as (reader, _):
        log.info("x" * 200_000)
        assert ours()[0].lost == 1
        log.info("lost as well")
        read(reader)
        log.info("whole")
        first, notice, whole, end = read(reader).split("\n")
    assert (first, end) == ("", "")
    assert notice.endswith("2 log lines were lost: nobody read them")
    assert whole.endswith("shop.orders: whole")


def test_a_reader_that_lives_gets_a_line_longer_than_the_pipe() -> None:
    taken: list[bytes] = []

    def take() -> None:
        while not taken or not taken[-1].endswith(b"\n"):
            taken.append(os.read(reader, 65536))

    with unread(os.pipe) as (reader, _):
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        log.info("x" * 200_000)
        assert ours()[0].lost == 0
        thread.join(10)
    assert len(b"".join(taken)) > 200_000


def test_a_dead_reader_is_waited_for_once() -> None:
    with unread(os.pipe):
        log.info("x" * 200_000)
        began = time.monotonic()
        for _ in range(200):
            log.info("lost")
        assert time.monotonic() - began < 200 * PATIENCE / 4
        assert ours()[0].lost == 201


def test_two_processes_that_fill_the_same_pipe_do_not_block_each_other() -> None:
    code = (
        "import logging, sys; from holdfast.telemetry.logs import configure; configure(format='text')\n"
        "for _ in range(20000): logging.info('x' * 30)"
    )
    reader, writer = os.pipe()
    try:
        many = [subprocess.Popen([sys.executable, "-c", code], stderr=writer) for _ in range(3)]
        assert [process.wait(60) for process in many] == [0, 0, 0]
    finally:
        os.close(reader)
        os.close(writer)


def test_the_descriptor_stays_as_it_is_for_those_who_share_it() -> None:
    with unread(os.pipe) as (_, stream):
        log.info("hello")
        assert os.get_blocking(stream.fileno())


def test_a_regular_file_gets_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as stream:
        configure(format="text", stream=stream)
        for number in range(1000):
            log.info("grüße %d %s", number, "x" * 6000)
        assert ours()[0].lost == 0
    text = (tmp_path / "log").read_text()
    assert re.findall(r"gr\\xfc\\xdfe (\d+) x{6000}$", text, re.MULTILINE) == [str(number) for number in range(1000)]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_line_that_cannot_be_formatted_names_its_place(format_: Format) -> None:
    class Spiteful:
        def __str__(self) -> str:
            raise LookupError("no text for you")

        __repr__ = __str__

    text = written(lambda: log.info("%d", "not a number"), format=format_)
    assert re.search(r"test_logs\.py:\d+ cannot be formatted: TypeError", text)
    assert "LookupError" in written(lambda: log.info("%s", Spiteful()), format=format_)
    assert "LookupError" in written(lambda: log.info("fine", extra={"thing": Spiteful()}), format=format_)


def test_a_label_that_cannot_be_shown_does_not_silence_the_log() -> None:
    class Spiteful:
        def __str__(self) -> str:
            raise LookupError("no text for you")

    stream = io.StringIO()
    configure(format="json", labels={"bad": Spiteful()}, stream=stream)
    log.info("hello")
    assert re.search(r"test_logs\.py:\d+ cannot be formatted", stream.getvalue())


def test_extra_fields_do_not_replace_the_fixed_ones() -> None:
    found = line(lambda: log.info("real", extra={"level": "fake", "timestamp": 0}))
    assert found["level"] == "info"
    assert found["level_"] == "fake"
    assert found["timestamp_"] == 0


def test_what_json_cannot_hold_is_written_as_text() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert line(lambda: log.info("x", extra={"thing": ValueError("odd")}))["thing"] == "odd"
    assert line(lambda: log.info("x", extra={"thing": loop}))["thing"] == "[[...]]"
    assert line(lambda: log.info("x", extra={"thing": {(1, 2): 3}}))["thing"] == {"(1, 2)": 3}
    assert str(line(lambda: log.info("x", extra={"thing": 1 << 100}))["thing"]) == str(1 << 100)
    assert line(lambda: log.info("\ud800"))["message"] == "\\ud800"


def test_a_stream_with_a_poor_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    configure(format="text", stream=io.TextIOWrapper(raw, encoding="ascii"))
    log.info("grüße")
    assert b"gr\\xfc\\xdfe" in raw.getvalue()


def test_nobody_can_write_a_false_line_through_a_message() -> None:
    text = written(lambda: log.info("GET /\n12:00:00.000 ERROR shop: false\r\x1b[2J"))
    assert text.count("\n") == 2
    assert "\n    12:00:00.000 ERROR" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\\x1b[2J" in text


def test_a_huge_message_is_cut() -> None:
    assert len(written(lambda: log.info("x" * (MESSAGE_LIMIT * 2)))) < MESSAGE_LIMIT + 200
    assert len(str(line(lambda: log.info("x" * (MESSAGE_LIMIT * 2)))["message"])) < MESSAGE_LIMIT + 200


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner.map(str) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters()), st.dictionaries(st.text(min_size=1), ANYTHING, max_size=3))
def test_any_record_is_exactly_one_line_of_json(message: str, extra: dict[str, object]) -> None:
    record = logging.LogRecord("shop", logging.INFO, "here.py", 1, message, None, None)
    for name, value in extra.items():
        record.__dict__.setdefault(name, value)
    text = Json({"worker": 1}).format(record)
    assert "\n" not in text
    assert msgspec.json.decode(text)["logger"] == "shop"
