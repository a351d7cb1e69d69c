"""Bad input and bad clients: right refusals, the same workers, no growth."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

import psutil
from benchmarks.hostile import attack, weigh

from e2e.harness import Running, request, wait_for

CONNECTIONS = 20_000


def place(running: Running) -> tuple[str, int]:
    return "127.0.0.1", running.port


def talk(running: Running, data: bytes, within: float = 10) -> bytes:
    """Send, and read to the end of the connection. A reset raises."""
    with socket.create_connection(place(running), within) as sock:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


def test_twenty_thousand_garbage_connections_leave_no_trace(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--header-timeout", "1s", "--body-timeout", "1s")
    attack(place(running), 1000, 1)
    before = weigh(running)
    done = threading.Thread(target=attack, args=(place(running), CONNECTIONS, 2))
    done.start()
    asked = 0
    while done.is_alive():
        assert request(running.address)[0] == 200
        asked += 1
        time.sleep(0.05)
    done.join()
    after = weigh(running)
    assert asked > 10
    assert before.keys() == after.keys(), "the same workers"
    for pid, then in before.items():
        assert after[pid]["fds"] <= then["fds"] + 1
        assert after[pid]["rss"] < then["rss"] + 16 * 1024 * 1024
    assert "Traceback" not in running.log


def test_failing_handlers_do_not_end_the_worker(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    pids = running.pids()
    for path in ("/raise", "/exit"):
        status, headers, body = request(running.address, path)
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert json.loads(body)["request_id"] in running.log
    assert request(running.address)[0] == 200
    assert running.pids() == pids
    assert running.log.count("Traceback") == 2


def test_what_is_too_large_is_refused_in_words_though_it_is_still_being_sent(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--max-header-size", "8KiB", "--max-body-size", "1MiB")
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
    huge = talk(running, head + b"Content-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)
    assert huge.startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    chunked = talk(running, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 300)
    assert chunked.startswith(b"HTTP/1.1 413 ")
    headers = talk(running, head + b"X: " + b"y" * 2_000_000)
    assert headers.startswith(b"HTTP/1.1 431 ")
    assert request(running.address, "/echo", method="POST", body=b"x" * 2**20)[2] == b"x" * 2**20


def test_slow_clients_are_refused_and_cost_the_others_nothing(serve: Callable[..., Running]) -> None:
    options = ("--header-timeout", "1s", "--body-timeout", "1s", "--send-timeout", "1s")
    running = serve("plain", "--workers", "1", *options)
    starts = (b"GET / HTTP/1.1\r\nX: ", b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(place(running), 10)) for _ in range(300)]
        for number, sock in enumerate(slow):
            sock.sendall(starts[number % 2])
        began, worst = time.monotonic(), 0.0
        while time.monotonic() - began < 1.2:
            asked = time.monotonic()
            assert request(running.address)[0] == 200
            worst = max(worst, time.monotonic() - asked)
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.send(b"y")
        assert worst < 0.5
        for sock in slow:
            assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")
    wait_for(lambda: running.workers()[0]["connections"] == 0)


def test_a_worker_without_free_descriptors_goes_on_and_recovers(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--max-connections", "1000")
    [pid] = running.pids()
    worker = psutil.Process(pid)
    limit = worker.num_fds() + 10
    worker.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(place(running), 10)) for _ in range(50)]
        wait_for(lambda: "no connection can be accepted" in running.log)
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert held[0].recv(1000).startswith(b"HTTP/1.1 200 ")
        cpu = worker.cpu_times().user
        time.sleep(1)
        assert worker.cpu_times().user - cpu < 0.3, "it does not spin"
    assert request(running.address)[0] == 200
    assert running.log.count("no connection can be accepted") == 1
    assert running.pids() == {pid}


def test_connections_beyond_the_limit_wait(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--max-connections", "5")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(place(running), 10)) for _ in range(5)]
        wait_for(lambda: running.workers()[0]["connections"] == 5)
        late = stack.enter_context(socket.create_connection(place(running), 10))
        late.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        late.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            assert not late.recv(1000), "the limit is not kept"
        held[0].close()
        late.settimeout(10)
        assert late.recv(1000).startswith(b"HTTP/1.1 200 ")
