"""TLS under a supervisor: certificates that change on disk, and reloads that lose nothing."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from e2e.harness import Running, wait_for

CHANGED = "new connections get the changed certificate"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


class Files:
    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"
        self._authority = authority
        self.issue("first.test")

    def issue(self, name: str) -> None:
        issued = self._authority.issue_cert("127.0.0.1", name)
        issued.private_key_pem.write_to_path(str(self.key))
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        stamp = time.time() + len(name)
        os.utime(self.certificate, (stamp, stamp))

    @property
    def options(self) -> tuple[str, ...]:
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def ask(client: http.client.HTTPSConnection) -> http.client.HTTPResponse:
    client.request("GET", "/")
    answer = client.getresponse()
    answer.read()
    return answer


def names(client: http.client.HTTPSConnection) -> set[str]:
    assert isinstance(client.sock, ssl.SSLSocket)
    found: Any = client.sock.getpeercert()
    return {str(name) for kind, name in found["subjectAltName"] if kind == "DNS"}


def test_a_certificate_changes_without_a_restart(
    serve: Callable[..., Running], files: Files, trusting: ssl.SSLContext
) -> None:
    running = serve("plain", "--workers", "1", *files.options)
    pids = running.pids()
    assert running.status()["addresses"][0].startswith("https://")

    def connect() -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(running.address, timeout=10, context=trusting)

    with (
        contextlib.closing(connect()) as old,
        contextlib.closing(connect()) as new,
        contextlib.closing(connect()) as last,
    ):
        assert ask(old).status == 200
        assert names(old) == {"first.test"}
        files.issue("second.test")
        wait_for(lambda: CHANGED in running.log)
        assert ask(new).status == 200
        assert names(new) == {"second.test"}
        assert ask(old).status == 200, "old connections live"
        assert names(old) == {"first.test"}
        files.certificate.write_text("broken")
        wait_for(lambda: "the last good one stays" in running.log)
        assert ask(last).status == 200
        assert names(last) == {"second.test"}
    with socket.create_connection(("127.0.0.1", running.port), 10) as plain, contextlib.suppress(ConnectionResetError):
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)
    assert running.pids() == pids
    assert "Traceback" not in running.log


class User(threading.Thread):
    """A keep-alive client that honours ``Connection: close`` and never asks twice."""

    def __init__(self, address: str, context: ssl.SSLContext, outcomes: "Counter[str]", over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.context = context
        self.outcomes = outcomes
        self.over = over

    def run(self) -> None:
        while not self.over.is_set():
            client = http.client.HTTPSConnection(self.address, timeout=10, context=self.context)
            with contextlib.closing(client):
                while not self.over.is_set():
                    try:
                        answer = ask(client)
                    except ConnectionRefusedError:
                        self.outcomes["refused"] += 1
                        self.over.set()
                        return
                    except (OSError, http.client.HTTPException) as exc:
                        self.outcomes[repr(exc)] += 1
                        return
                    self.outcomes[str(answer.status)] += 1
                    if answer.getheader("connection") == "close":
                        self.outcomes["told to close"] += 1
                        break
                    time.sleep(0.005)


def test_reloads_and_a_stop_under_load_lose_nothing(
    serve: Callable[..., Running], files: Files, trusting: ssl.SSLContext
) -> None:
    running = serve("plain", "--workers", "2", *files.options)
    outcomes: Counter[str] = Counter()
    over = threading.Event()
    users = [User(running.address, trusting, outcomes, over) for _ in range(10)]
    for user in users:
        user.start()
    for _ in range(3):
        running.reload()
        time.sleep(0.3)
    running.signal(signal.SIGTERM)
    assert running.wait_end(20) == 0
    for user in users:
        user.join(10)
    print(json.dumps(outcomes))
    assert outcomes.keys() <= {"200", "told to close", "refused"}, outcomes
    assert outcomes["told to close"] >= 30, "TLS connections cannot move"
    assert outcomes["200"] > 300
