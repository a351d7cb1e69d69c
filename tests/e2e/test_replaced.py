"""A deploy replaces the files of the installed package while the service runs."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import holdfast
from e2e.harness import GATES, Running, request, wait_for

Serve = Callable[..., Running]

UPGRADE = b"""GET / HTTP/1.1
host: test
connection: upgrade
upgrade: websocket
sec-websocket-version: 13
sec-websocket-key: MDAwMDAwMDAwMDAwMDAwMA==

"""


def first_line(running: Running, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", running.port), 30) as sock:
        sock.sendall(head.replace(b"\n", b"\r\n"))
        return sock.makefile("rb").readline()


def test_a_service_needs_its_package_no_more_once_it_has_served_for_a_while(serve: Serve, tmp_path: Path) -> None:
    (package,) = holdfast.__path__
    copy = tmp_path / "installed"
    shutil.copytree(package, copy / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    running = serve("talkative", "--workers", "1", "--log-level", "debug", env={"PYTHONPATH": str(copy)})
    wait_for(lambda: running.log.count("put off was loaded") == 2, 60, "supervisor and worker have loaded all")
    for file in (copy / "holdfast").rglob("*.py"):
        file.write_text("raise ImportError('of another release')\n")
    for compiled in copy.rglob("__pycache__"):
        shutil.rmtree(compiled)
    pids = running.pids()
    assert first_line(running, UPGRADE).startswith(b"HTTP/1.1 101 ")
    (tmp_path / "holdfast.toml").write_text(GATES)
    wait_for(lambda: running.ask("config")["version"] == 2, 30, "the change holds")
    assert request(running.address)[0] == 200
    counted = running.ask("routes")
    assert [worker["missing"] for worker in counted["workers"]] == [""]
    assert [route["requests"] for route in counted["routes"] if route["name"] == "GET /"] == [1]
    assert running.pids() == pids
    assert "another release" not in running.log
