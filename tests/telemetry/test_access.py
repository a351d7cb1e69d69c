import io
import logging
import os
import random
import re
import select
import threading
from collections.abc import Iterator

import msgspec
import pytest

from holdfast.core.clock import VirtualClock
from holdfast.telemetry.access import AccessLog
from holdfast.telemetry.line_buffer import FLUSH_SIZE
from holdfast.telemetry.logs import Format, Handler, configure

logger = logging.getLogger("holdfast.access")
LABELS = {"service": "shop", "worker": 1, "generation": 3}


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, hook = root.level, threading.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, Handler | Records)]
    root.setLevel(level)
    threading.excepthook = hook
    logger.handlers.clear()
    logger.filters.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


class Records(logging.Handler):
    """A handler of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def configured(format: Format = "text", level: str = "info") -> io.StringIO:  # noqa: A002
    stream = io.StringIO()
    configure(format=format, level=level, labels=LABELS, stream=stream)
    alone()
    return stream


def alone() -> None:
    """Send pytest's own handlers away, which would have a say in where lines go."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, Handler)]


def write(log: AccessLog, path: str = "/orders") -> None:
    log.write("GET", path, b"page=2", 200, 0.0123, "192.0.2.1:4711", "abc", "orders", 312)


def bare(text: str) -> str:
    return re.sub(r"^\S+ ", "", text, flags=re.MULTILINE)


LINE = (
    "INFO    shop w1 g3 holdfast.access: "
    '192.0.2.1:4711 "GET /orders?page=2" 200 12.3ms bytes=312 request_id=abc route=orders\n'
)


def test_a_line_goes_to_the_stream_of_the_log_with_the_next_flush() -> None:
    stream = configured()
    log = AccessLog()
    write(log)
    assert stream.getvalue() == ""
    log.flush()
    assert bare(stream.getvalue()) == LINE
    log.flush()
    assert stream.getvalue().count("\n") == 1


def test_json_lines_have_fields() -> None:
    stream = configured("json")
    log = AccessLog(clock=VirtualClock())
    write(log)
    log.close()
    found = msgspec.json.decode(stream.getvalue(), type=dict[str, object])
    assert (found["path"], found["status"], found["route"], found["worker"]) == ("/orders", 200, "orders", 1)


def test_lines_are_stamped_with_the_time_of_the_clock() -> None:
    stream = configured("json")
    clock = VirtualClock()
    log = AccessLog(clock=clock)
    write(log)
    log.flush()
    stamp = msgspec.json.decode(stream.getvalue(), type=dict[str, str | int | float])["timestamp"]
    assert str(stamp).startswith("2023-11-14T22:30:00.000")


def test_text_is_the_same_on_the_short_and_on_the_long_way() -> None:
    stream = configured()
    log = AccessLog()
    write(log)
    log.flush()
    logger.addHandler(logging.NullHandler())
    log.flush()
    write(log)
    assert bare(stream.getvalue()) == LINE + LINE


def test_json_has_the_same_fields_on_the_short_and_on_the_long_way() -> None:
    stream = configured("json")
    log = AccessLog()
    write(log)
    log.flush()
    logger.addHandler(logging.NullHandler())
    log.flush()
    write(log)
    short, long = (msgspec.json.decode(line, type=dict[str, object]) for line in stream.getvalue().splitlines())
    for name in ("timestamp", "message"):
        del short[name], long[name]
    assert short == long


def test_handlers_of_the_user_get_each_line_at_once() -> None:
    stream = configured()
    mine = Records()
    logger.addHandler(mine)
    log = AccessLog()
    write(log)
    (record,) = mine.records
    assert record.getMessage() == LINE.partition(": ")[2].rstrip("\n")
    assert (record.__dict__["path"], record.__dict__["status"], record.__dict__["duration_ms"]) == (
        "/orders",
        200,
        12.3,
    )
    assert bare(stream.getvalue()) == LINE, "the log's own handler gets it too, as always in logging"


def test_without_propagation_only_the_users_handler_gets_lines() -> None:
    stream = configured()
    mine = Records()
    logger.addHandler(mine)
    logger.propagate = False
    log = AccessLog()
    write(log)
    log.close()
    assert len(mine.records) == 1
    assert stream.getvalue() == ""


def test_without_propagation_and_handlers_nobody_gets_lines() -> None:
    stream = configured()
    logger.propagate = False
    log = AccessLog()
    write(log)
    log.close()
    assert stream.getvalue() == ""


def test_another_handler_at_the_root_or_between_gets_lines_too() -> None:
    for place in ("", "holdfast"):
        stream = configured()
        mine = Records()
        logging.getLogger(place).addHandler(mine)
        log = AccessLog()
        write(log)
        logging.getLogger(place).removeHandler(mine)
        assert len(mine.records) == 1
        assert bare(stream.getvalue()) == LINE


def test_a_filter_and_a_record_factory_of_the_user_are_asked() -> None:
    stream = configured()
    factory = logging.getLogRecordFactory()

    def tagged(*args: object, **named: object) -> logging.LogRecord:
        record = factory(*args, **named)
        record.msg = "tagged %s"
        return record

    logging.setLogRecordFactory(tagged)
    try:
        log = AccessLog()
        write(log)
    finally:
        logging.setLogRecordFactory(factory)
    assert ": tagged 192.0.2.1" in stream.getvalue()
    logger.addFilter(lambda record: "/health" not in record.getMessage())
    log.flush()
    write(log, "/health")
    write(log)
    assert stream.getvalue().count("\n") == 2
    assert "/health" not in stream.getvalue()


def test_a_filter_or_level_of_the_logs_handler_counts() -> None:
    stream = configured()
    (handler,) = logging.getLogger().handlers
    handler.setLevel(logging.WARNING)
    log = AccessLog()
    write(log)
    log.close()
    handler.setLevel(logging.NOTSET)
    handler.addFilter(lambda record: False)
    log.flush()
    write(log)
    log.close()
    assert stream.getvalue() == ""


def test_a_formatter_of_the_user_is_used() -> None:
    stream = configured()
    (handler,) = logging.getLogger().handlers
    handler.setFormatter(logging.Formatter("mine %(route)s %(status)d"))
    log = AccessLog()
    write(log)
    assert stream.getvalue() == "mine orders 200\n"


def test_a_level_above_info_switches_lines_off_and_on_again() -> None:
    stream = configured(level="warning")
    log = AccessLog()
    before = log.enabled
    write(log)
    logging.getLogger().setLevel(logging.INFO)
    log.flush()
    assert (before, log.enabled) == (False, True)
    write(log)
    logger.setLevel(logging.ERROR)
    log.flush()
    write(log)
    log.close()
    assert bare(stream.getvalue()) == LINE


def test_a_new_set_up_of_the_log_holds_from_the_next_flush_on() -> None:
    first = configured("text")
    log = AccessLog()
    write(log)
    second = configured("json")
    log.flush()
    write(log)
    log.flush()
    assert bare(first.getvalue()) == LINE
    assert msgspec.json.decode(second.getvalue(), type=dict[str, object])["path"] == "/orders"


def test_without_any_set_up_nothing_is_written_and_nothing_fails() -> None:
    alone()
    logging.getLogger().setLevel(logging.INFO)
    log = AccessLog()
    write(log)
    log.flush()
    log.close()
    assert log.lost == 0


def test_lines_that_are_lost_are_counted_and_told() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, os.fdopen(reader):
        configure(format="json", labels=LABELS, stream=stream)
        alone()
        log = AccessLog(clock=VirtualClock())
        for _ in range(4000):
            write(log, "/" + "x" * 400)
        assert log.lost > 1000
        found = b""
        for _ in range(100):
            log.flush()
            while select.select([reader], [], [], 0)[0]:
                found += os.read(reader, 65536)
        read = [msgspec.json.decode(line, type=dict[str, object]) for line in found.splitlines()]
    (notice,) = (line for line in read if line["level"] == "warning")
    assert notice["message"] == f"{log.lost} access lines were lost: nobody read them"
    assert str(notice["timestamp"]).startswith("2023-11-14T22:30:00.000")
    assert (notice["logger"], notice["service"]) == ("holdfast.access", "shop")
    assert len(read) - 1 + log.lost == 4000


def test_a_line_that_cannot_be_made_costs_the_line_and_nothing_else() -> None:
    stream = configured()
    log = AccessLog()
    log.write("GET", "/", "text", 200, 0.1)  # type: ignore[arg-type]
    log.write("GET", "/", b"", 200, "soon")  # type: ignore[arg-type]
    write(log)
    log.flush()
    assert log.lost == 2
    assert "holdfast.access: 2 access lines were lost: " in stream.getvalue()
    assert bare(stream.getvalue()).endswith(LINE)


def test_a_filter_that_raises_costs_the_line_and_nothing_else() -> None:
    configured()

    def broken(record: logging.LogRecord) -> bool:
        raise LookupError("no such filter")

    logger.addFilter(broken)
    log = AccessLog()
    write(log)
    assert log.lost == 1


def test_labels_that_are_too_long_take_the_long_way() -> None:
    stream = io.StringIO()
    configure(format="json", labels={"service": "s" * 5000}, stream=stream)
    alone()
    log = AccessLog()
    write(log)
    assert msgspec.json.decode(stream.getvalue(), type=dict[str, object])["service"] == "s" * 5000
    assert log.lost == 0


def test_a_sample_keeps_its_share_and_all_that_matters() -> None:
    seed = 11
    stream = configured()
    log = AccessLog(sample=0.1, slow=2.0, rng=random.Random(seed))
    for _ in range(2000):
        log.write("GET", "/fine", b"", 200, 1.999)
        log.write("GET", "/moved", b"", 302, 0.1)
    for status in (0, 101, 400, 404, 500, 503):
        log.write("GET", "/bad", b"", status, 0.1)
    log.write("GET", "/slow", b"", 200, 2.0)
    log.write("GET", "/refused", b"", 200, 0.1, reason="rate")
    log.close()
    text = stream.getvalue()
    assert (text.count("/bad"), text.count("/slow"), text.count("/refused")) == (6, 1, 1)
    # Four standard deviations of 2000 draws of one in ten.
    assert 146 <= text.count("/fine") <= 254
    assert 146 <= text.count("/moved") <= 254
    assert log.lost == 0


def test_a_sample_of_all_and_of_nothing() -> None:
    stream = configured()
    log = AccessLog(sample=0.0)
    write(log)
    log.set_sampling(1.0)
    write(log)
    log.close()
    assert bare(stream.getvalue()) == LINE


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    log = AccessLog()
    with pytest.raises(ValueError, match="between 0 and 1"):
        log.set_sampling(share)
    with pytest.raises(ValueError, match="0 or more"):
        log.set_sampling(0.5, float("nan"))


def test_a_burst_is_written_before_the_next_flush() -> None:
    stream = configured()
    log = AccessLog()
    for _ in range(FLUSH_SIZE // len(LINE) + 1):
        write(log)
    assert stream.getvalue()


def test_ordinary_lines_go_beside() -> None:
    stream = configured()
    log = AccessLog()
    write(log)
    logging.getLogger("shop").info("beside")
    log.close()
    assert [line.rpartition(" w1 g3 ")[2][:8] for line in stream.getvalue().splitlines()] == ["shop: be", "holdfast"]
    assert isinstance(logging.getLogger().handlers[0], Handler)
