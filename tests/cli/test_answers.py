"""A program and a supervisor of different versions: neither knows what the other has become."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.configs import complained

PATIENCE = 30.0
Answers = Callable[[bytes], Path]


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    """Makes a socket at which every question has this answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = tmp_path / "c.sock"
        listener.bind(str(path))
        listener.listen()
        threads: list[threading.Thread] = []

        def serve(answer: bytes) -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                lines.readline()
                connection.sendall(answer)

        def start(answer: bytes) -> Path:
            threads.append(threading.Thread(target=serve, args=(answer,), daemon=True))
            threads[-1].start()
            return path

        yield start
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    "command",
    ["status", "reload", "scale 3", "routes --running", "config show --running", "config history", "config apply"],
)
@pytest.mark.parametrize("result", [b'{"name": 1, "slots": []}', b"null", b"[]"], ids=["other", "null", "list"])
def test_an_answer_of_another_version_is_told_with_what_to_do(
    answers: Answers, capsys: pytest.CaptureFixture[str], command: str, result: bytes
) -> None:
    path = answers(b'{"result": ' + result + b"}\n")
    told = complained(capsys, *command.split(), "--control", str(path))
    assert told[0].startswith(f"holdfast: the supervisor at {path} runs another version of Holdfast")
    assert told[0].endswith("holdfast upgrade puts this one in its place")
    assert len(told) == 1
