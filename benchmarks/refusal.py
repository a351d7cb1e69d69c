"""What one refused request costs the server, without the kernel's part: parsing, admission, the queue, the answer.

    python -m benchmarks.refusal
    python -m benchmarks.refusal --profile

Requests go into the protocols of an engine whose only place is taken, and out comes 503 with ``Retry-After`` and a
problem's body. Transports take the bytes and do nothing. Beside it stands the same for an app that answers at once.
"""

import argparse
import asyncio
import cProfile
import pstats
import socket
import statistics
import sys
import time
from typing import Any, Final, cast

from holdfast.server.admission.settings import AdmissionSettings
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.protocol import HttpProtocol
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening

BATCH: Final = 200
"""Connections that bring a request in the same turn of the loop."""
BATCHES: Final = 100
ROUNDS: Final = 7
MOST: Final = 25.0
"""Microseconds that a refusal may cost."""
HEADERS: Final = (
    b"host: shop.example\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64)\r\naccept: application/json\r\n"
    b"accept-encoding: gzip, deflate\r\nx-forwarded-for: 192.0.2.7\r\n"
)
REQUEST: Final = b"GET /orders/17 HTTP/1.1\r\n" + HEADERS + b"\r\n"


class Nowhere:
    """A transport that counts what is written, and keeps the last of it."""

    def __init__(self) -> None:
        self.writes = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.last = data

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 4000) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    abort = close


async def measure(refused: bool, profile: bool) -> tuple[float, bytes]:
    """Microseconds of CPU time for each request, and an answer."""
    stay = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stay":
            await stay.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        engine = HttpEngine(app, [Listening(0, sock)], HttpSettings(), admission=AdmissionSettings(concurrency=False))
        await engine.start()
        loop = asyncio.get_running_loop()
        protocols = []
        for _ in range(BATCH + 1):
            protocol = HttpProtocol(engine._config, engine.state, 0, loop)
            protocol.connection_made(cast("Any", Nowhere()))
            protocols.append(protocol)
        starter = engine.state.entrance.starter
        if refused:
            protocols.pop().data_received(REQUEST.replace(b"/orders/17", b"/stay"))
            await asyncio.sleep(0.01)
            starter.limit = 1
        found = []
        profiler = cProfile.Profile()
        for _ in range(ROUNDS):
            spent = 0.0
            if profile:
                profiler.enable()
            for _ in range(BATCHES):
                before = starter.refused + starter.started
                began = time.process_time()
                if refused:
                    starter.queue.patience = starter.queue.target = -1.0  # who waits has waited for too long
                for protocol in protocols:
                    protocol.data_received(REQUEST)
                while starter.refused + starter.started - before < BATCH or starter.running > refused:  # noqa: ASYNC110 - a turn each
                    await asyncio.sleep(0)
                spent += time.process_time() - began
            profiler.disable()
            found.append(spent / BATCHES / BATCH * 1e6)
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(28)
        last = cast("Nowhere", protocols[0].transport).last
        stay.set()
        await engine.stop()
        return statistics.median(found), last


def main() -> int:
    """0 when a refusal costs no more than ``MOST``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    import uvloop

    answered, _ = uvloop.run(measure(False, options.profile))
    refused, answer = uvloop.run(measure(True, options.profile))
    print(answer.decode())
    print(f"\nCPU time of a request, without the kernel's: answered {answered:.1f} us, refused {refused:.1f} us")
    return int(refused > MOST)


if __name__ == "__main__":
    sys.exit(main())
