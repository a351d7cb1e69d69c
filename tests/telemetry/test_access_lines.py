import logging
import math
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.telemetry.access_lines import LINE_LIMIT, JsonLines, Request, TextLines, summary
from holdfast.telemetry.logs import Json, Text

NOW = 1_700_000_000.25
LABELS = {"service": "shop", "worker": 1, "generation": 3}
WHOLE: Request = ("GET", "/orders/7", b"page=2", 200, 0.0012345, "192.0.2.1:4711", "abc", "orders", 312, "")
BARE: Request = ("GET", "/", b"", 204, 0.0, "", "", "", -1, "")

TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["", "plain", "x" * 5000, "\U0001f600" * 3000, '"' * 3000]
)
REQUESTS = st.tuples(
    TEXTS,
    TEXTS,
    st.binary(max_size=40) | st.sampled_from([b"", b"x" * 5000, b"\xff" * 5000, b'"' * 3000]),
    st.integers(0, 999),
    st.floats(),
    TEXTS,
    TEXTS,
    TEXTS,
    st.integers(-2, 1 << 62),
    TEXTS,
)


@pytest.fixture
def _in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def decoded(line: bytes) -> dict[str, object]:
    assert line.endswith(b"}\n")
    return msgspec.json.decode(line, type=dict[str, object])


def test_json_has_the_fixed_names_the_labels_and_the_fields_of_the_request() -> None:
    found = decoded(JsonLines(LABELS).line(NOW, WHOLE))
    assert found == {
        "timestamp": "2023-11-14T22:13:20.250000+00:00",
        "level": "info",
        "logger": "holdfast.access",
        "service": "shop",
        "worker": 1,
        "generation": 3,
        "message": "GET /orders/7 200",
        "method": "GET",
        "path": "/orders/7",
        "status": 200,
        "duration_ms": 1.234,
        "query": "page=2",
        "bytes": 312,
        "client": "192.0.2.1:4711",
        "request_id": "abc",
        "route": "orders",
    }


def test_what_is_not_known_is_left_out() -> None:
    for path, sent in (("/", -1), ("/", -7), ("/grüße", -1)):
        line = JsonLines({}).line(NOW, ("GET", path, *BARE[2:8], sent, ""))
        assert list(decoded(line))[3:] == ["message", "method", "path", "status", "duration_ms"]
    assert summary(BARE) == '- "GET /" 204 0.0ms'
    refused = decoded(JsonLines({}).line(NOW, (*BARE[:9], "the queue is full")))
    assert refused["reason"] == "the queue is full"
    assert summary((*BARE[:9], "the queue is full")) == '- "GET /" 204 0.0ms reason="the queue is full"'


@pytest.mark.usefixtures("_in_kathmandu")
def test_text_has_local_time_level_labels_and_the_request() -> None:
    assert TextLines(LABELS).line(NOW, WHOLE) == (
        b"03:58:20.250 INFO    shop w1 g3 holdfast.access: "
        b'192.0.2.1:4711 "GET /orders/7?page=2" 200 1.2ms bytes=312 request_id=abc route=orders\n'
    )


@pytest.mark.parametrize("now", [NOW, 1_700_000_000.0, 1_700_000_000.9995, 0.0])
def test_the_forms_are_those_of_the_other_lines(now: float) -> None:
    record = logging.LogRecord("holdfast.access", logging.INFO, "", 0, summary(WHOLE), None, None)
    record.created = now
    assert TextLines(LABELS).line(now, WHOLE).decode() == Text(LABELS, colour=False).format(record) + "\n"
    theirs = msgspec.json.decode(Json(LABELS).format(record), type=dict[str, object])
    mine = decoded(JsonLines(LABELS).line(now, WHOLE))
    assert len(str(mine["timestamp"])) == len(str(theirs["timestamp"]))
    mine_at, theirs_at = (datetime.fromisoformat(str(line["timestamp"])) for line in (mine, theirs))
    assert abs(mine_at - theirs_at) <= timedelta(microseconds=1)
    for name in ("level", "logger", "service", "worker", "generation"):
        assert mine[name] == theirs[name]


def test_a_new_second_is_seen_also_when_time_goes_back() -> None:
    json_lines, text_lines = JsonLines({}), TextLines({})
    for now in (NOW, NOW + 1, NOW - 3600, NOW):
        expected = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
        assert decoded(json_lines.line(now, BARE))["timestamp"] == expected
        shown = datetime.fromtimestamp(now).astimezone().strftime("%H:%M:%S.250")
        assert text_lines.line(now, BARE).decode().startswith(shown)


@pytest.mark.parametrize(
    "path",
    [
        '/x" 200 0.1ms\n12:00:00.000 ERROR shop: false',
        '/","level":"error","x":"',
        "/\r\n{}",
        "/\x1b[2J\x1b]0;owned\x07",
        "/\x00\x08",
        "/\x7f",
        "/100%",
        "/%2e%2e",
        "/what?",
        "/\x9b31m\x85",
        "/\u2028\u2029\u202e",
        "/grüße\U0001f600",
        "/\ud800",
        "/a?b=c%00",
        "/two words",
        "/back\\slash",
    ],
)
def test_a_path_is_escaped_and_can_be_read_back(path: str) -> None:
    request: Request = ("GET", path, path.encode("utf-8", "replace"), *WHOLE[3:])
    line = JsonLines({}).line(NOW, request)
    assert line[:-1].decode("ascii").isprintable()
    found = decoded(line)
    shown = path.encode("utf-8", "backslashreplace").decode()
    assert found["path"] == shown
    assert str(found["query"]).encode("latin-1") == request[2]
    assert found["level"] == "info"
    text = TextLines({}).line(NOW, request).decode("ascii")
    assert text[:-1].isprintable()
    match = re.fullmatch(
        r'\S+ INFO +holdfast\.access: 192\.0\.2\.1:4711 "GET ([^"?]+)\?([^" ]+)" 200 1\.2ms .*\n', text
    )
    assert match
    assert unquote(match[1]) == shown
    assert unquote_to_bytes(match[2]) == unquote_to_bytes(request[2])


@pytest.mark.parametrize("place", [0, 5, 6, 7, 9], ids=["method", "client", "request_id", "route", "reason"])
def test_no_field_can_begin_another(place: int) -> None:
    evil = 'x reason=none "GET /admin'
    request = list(WHOLE)
    request[place] = evil
    found = decoded(JsonLines({}).line(NOW, tuple(request)))  # type: ignore[arg-type]
    assert evil in found.values()
    text = summary(tuple(request))  # type: ignore[arg-type]
    assert '"x reason=none \\"GET /admin"' in text


@given(REQUESTS)
def test_any_request_is_exactly_one_short_line_of_printable_ascii(request: Request) -> None:
    labels = {"service": "s" * 400, "worker": "\U0001f600" * 30}
    for line in (JsonLines(labels).line(NOW, request), TextLines(labels).line(NOW, request)):
        assert len(line) <= LINE_LIMIT
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
    assert re.fullmatch(r"[ -~]*", JsonLines(labels).line(NOW, request)[:-1].decode())
    assert re.fullmatch(r"[ -~]*", TextLines({}).line(NOW, request)[:-1].decode())
    assert decoded(JsonLines(labels).line(NOW, request))["status"] == request[3]


@given(REQUESTS)
def test_what_is_not_too_long_is_not_changed(request: Request) -> None:
    method, path, query, status, _, client, request_id, route, sent, reason = request
    if sum(map(len, (method, path, query, client, request_id, route, reason))) > 300:
        return
    found = decoded(JsonLines({}).line(NOW, request))
    for name, text in (("method", method), ("path", path), ("client", client), ("request_id", request_id)):
        assert found.get(name, "") == text.encode("utf-8", "backslashreplace").decode()
    assert str(found.get("query", "")).encode("latin-1") == query
    assert found.get("route", "") == route.encode("utf-8", "backslashreplace").decode()
    assert found.get("reason", "") == reason.encode("utf-8", "backslashreplace").decode()
    assert found.get("bytes", -1) == max(sent, -1)
    assert found["status"] == status


def test_a_long_line_loses_the_ends_of_its_long_fields_only() -> None:
    request: Request = ("GET", "/" + "p" * 9000, b"q" * 9000, 200, 0.5, "192.0.2.1:4711", "i" * 128, "orders", 312, "")
    found = decoded(JsonLines(LABELS).line(NOW, request))
    assert str(found["path"]) == "/" + "p" * 599 + "..."
    assert str(found["query"]) == "q" * 600 + "..."
    assert (found["client"], found["request_id"], found["route"]) == ("192.0.2.1:4711", "i" * 128, "orders")
    assert b"/" + b"p" * 599 + b"...?" in TextLines(LABELS).line(NOW, request)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0])
def test_a_duration_that_is_none_is_shown_as_0(seconds: float) -> None:
    request = (*WHOLE[:4], seconds, *WHOLE[5:])
    assert decoded(JsonLines({}).line(NOW, request))["duration_ms"] == 0
    assert " 0.0ms" in summary(request)


def test_labels_replace_no_field() -> None:
    line = JsonLines({"level": "fake", "path": "/fake", "zone": "a"}).line(NOW, WHOLE)
    found = decoded(line)
    assert line.count(b'"path":') == 1
    assert (found["level"], found["level_"], found["path"], found["zone"]) == ("info", "fake", "/orders/7", "a")


@pytest.mark.parametrize("make", [JsonLines, TextLines])
def test_labels_that_leave_no_room_are_refused(make: type[JsonLines | TextLines]) -> None:
    with pytest.raises(ValueError, match="they may take 1024"):
        make({"service": "s" * 1100})
