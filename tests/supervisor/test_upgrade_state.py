"""What a supervisor leaves to its successor in the same process."""

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config.document import Document
from holdfast.core.duration import Duration
from holdfast.core.errors import BootError
from holdfast.core.size import Size
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.process import anonymous_file
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.status import Outcome
from holdfast.supervisor.upgrade import FORMAT, VARIABLE, HeldListener, HeldWorker, Resumed, read_state

STATE = Resumed(
    format=FORMAT,
    trial=False,
    listeners=(HeldListener(0, 5, "127.0.0.1:8000", None), HeldListener(1, 6, "unix:/run/x.sock", (1, 2))),
    intake=(7, 8),
    control_fd=9,
    admin_fds=(),
    workers=(HeldWorker(3, 1, 2, 4711, 10, 11, "AAA=", "ready", True, 1.5, 2.5, None, "it got SIGTERM"),),
    slots=2,
    generation=2,
    serial=3,
    crashes=1,
    hangs=0,
    upgrades=4,
    began=1.0,
    scaled=None,
    fixed={},
    settings={},
    lame=False,
    reload=True,
    reply_fd=12,
    last_reload=Outcome(False, 2, 0.5, 1.0, "no", "why"),
)


def _left(data: bytes) -> dict[str, str]:
    fd = anonymous_file()
    os.write(fd, data)
    return {VARIABLE: str(fd), "OTHER": "1"}


def test_the_state_comes_back_as_it_was_and_its_variable_reaches_no_worker() -> None:
    environment = _left(msgspec.json.encode(STATE))
    fd = int(environment[VARIABLE])
    assert read_state(environment) == STATE
    assert environment == {"OTHER": "1"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


SETTINGS = st.builds(
    Settings,
    app=st.text("ab:", max_size=5),
    workers=st.integers(1, 64) | st.just("auto"),
    bind=st.lists(st.text("a1:,", max_size=5), max_size=3).map(tuple),
    boot_timeout=st.floats(1e-6, 1e6).map(Duration),
    max_body_size=st.integers(0, 2**40).map(Size),
    access_log=st.booleans(),
    log_format=st.sampled_from(["auto", "text", "json"]),
    recycle_jitter=st.floats(0, 1),
)


@given(SETTINGS)
def test_settings_reach_a_successor_unchanged(given_settings: Settings) -> None:
    wire = msgspec.json.encode(given_settings.plain())
    found = make_schema().read(Document.of({"run": msgspec.json.decode(wire)})).run
    assert found == given_settings
    assert type(found.boot_timeout) is Duration
    assert type(found.max_body_size) is Size


def test_without_a_predecessor_there_is_no_state() -> None:
    assert read_state({"OTHER": "1"}) is None


def test_the_state_of_another_format_is_refused_with_both_numbers() -> None:
    other = msgspec.json.encode(msgspec.structs.replace(STATE, format=FORMAT + 1))
    with pytest.raises(BootError, match=f"has format {FORMAT + 1}, not {FORMAT}"):
        read_state(_left(other))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", msgspec.json.encode(STATE)[:-9]])
def test_a_state_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(BootError, match="cannot be read"):
        read_state(_left(data))


@pytest.mark.parametrize("text", ["x", "99999"])
def test_a_variable_that_names_no_descriptor_is_refused(text: str) -> None:
    with pytest.raises(BootError, match="cannot be read"):
        read_state({VARIABLE: text})
