"""The fuzz targets, without atheris: they hold for inputs of a seed, and they would notice what they look for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.heads import SECRET, request
from fuzz.responses import read_answers
from fuzz.target import Broken, Target, inputs
from fuzz.targets import NAMES, target_of

ROOT = Path(__file__).resolve().parent.parent
COUNT = 300
SEED = 20261124  # the same in every run; scripts/fuzz takes another one each time


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest) -> Target:
    return target_of(request.param)


def test_a_few_hundred_inputs_break_nothing(target: Target) -> None:
    for data in inputs(target, SEED, COUNT):
        try:
            target.run(data)
        except Exception:
            print("input", data)
            raise


def test_the_same_seed_makes_the_same_inputs_and_they_differ(target: Target) -> None:
    made = inputs(target, 1, 200)
    assert made == inputs(target, 1, 200)
    assert made != inputs(target, 2, 200)
    assert len(set(made)) > 150


def test_a_seed_of_each_target_is_read_and_not_only_refused() -> None:
    from fuzz import connection, documents

    whole = bytes(3) + request(b"/plain") + request(b"/body", method=b"POST", body=b"hello")
    connection.run(whole)
    assert documents.SCHEMA.read(documents.document_of(documents.TARGET.seeds[1]), env=documents.ENV).settings.tokens


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nx : 1\r\n\r\n", "no header"),
        (b"HTTP/1.1 200 OK\r\nx: 1\r\nX: 2\r\n\r\n", "twice"),
        (b"HTTP/2 200 OK\r\n\r\n", "no status line"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", "a length and chunks"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "longer than its size"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "lies in the body"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "follows the last",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na\r\nx", "no response follows"),
    ],
)
def test_the_reader_of_answers_takes_no_malformed_one(written: bytes, what: str) -> None:
    with pytest.raises(Broken, match=what):
        read_answers(written, head_requests=False)


def test_the_reader_of_answers_takes_those_that_are_well_formed() -> None:
    written = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"
    )
    answers = read_answers(written, head_requests=True)
    assert [answer.status for answer in answers] == [100, 200, 204, 200, 200]
    assert [answer.whole for answer in answers] == [True, True, True, True, False]
    assert answers[1].body == b"abc"


def test_a_credential_that_gets_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import connection
    from fuzz.app import OnPurpose

    async def tells(scope: Any, receive: object, send: object) -> None:
        raise OnPurpose(str(scope["headers"]))

    monkeypatch.setattr(connection, "app", tells)
    with pytest.raises(Broken, match="the log holds a credential"):
        connection.run(bytes(3) + request(b"/plain", b"Authorization: Bearer " + SECRET))


def test_a_fault_that_is_not_the_app_s_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import connection

    async def returns(scope: object, receive: object, send: object) -> None:
        """No answer."""

    monkeypatch.setattr(connection, "app", returns)
    with pytest.raises(Broken, match="the app returned without starting"):
        connection.run(bytes(3) + request(b"/plain"))


def test_it_runs_for_its_time_and_says_its_seed() -> None:
    command = [sys.executable, "-m", "fuzz", "--blind", "--seconds", "0.2", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: seed 7: nothing broken" in done.stdout
    assert all(f"{name}: " in done.stdout for name in NAMES)


def test_an_unknown_target_is_a_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "conection"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "there is no target conection" in done.stderr
