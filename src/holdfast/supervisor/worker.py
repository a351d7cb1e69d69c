"""A worker process: one interpreter, one event loop, one copy of the application."""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from holdfast.config.mistakes import each
from holdfast.core.drain import Drain, use_drain
from holdfast.core.errors import BootError, ConfigError
from holdfast.supervisor import machine
from holdfast.supervisor.application import Application, configure_log
from holdfast.supervisor.channel import (
    DUMP_SIGNAL,
    AnyMessage,
    Apply,
    Booting,
    Channel,
    Configure,
    Count,
    Draining,
    Failed,
    Forget,
    LameDuck,
    Leave,
    Message,
    Ready,
    Retire,
    Retired,
    Serve,
    Start,
    frame,
    read_start,
)

logger = logging.getLogger("holdfast.worker")

BEAT_INTERVAL = 1.0
"""Seconds between two signs of life."""
ORPHAN_MARGIN = 5.0
"""What an orphan has over its drain limit before its thread ends it, loop or no loop."""
START_LIMIT = 10.0
"""Seconds within which the supervisor's first word must come."""
MAX_UNFINISHED = 100
"""So many pieces of unfinished work are named, each with MAX_NAME characters."""
MAX_NAME = 200
MAX_DETAIL = 32 * 1024
"""Characters of an app's error that are reported, its end."""
EXIT_BOOT = 3
EXIT_ORPHAN = 4


class WorkerProcess:
    """From the first word of the supervisor to the end of the process."""

    def __init__(self, start: Start, sock: socket.socket, serving: threading.Event) -> None:
        """``serving`` is set once connections are accepted: from then on an orphan has something to finish."""
        self.start = start
        self.settings = start.settings
        self._sock = sock
        self._drain = Drain()
        self._retire: asyncio.Future[Retire] | None = None
        self._serve: asyncio.Future[None]
        self._serving = serving
        self._channel: Channel | None = None
        self._application: Application | None = None
        self._beat_due = 0.0
        self._lag = 0.0

    def say(self, message: Message) -> bool:
        """Directly to the socket before the loop runs, then through the channel. False when nobody hears."""
        if self._channel is not None:
            return self._channel.send(message)
        try:
            self._sock.sendall(frame(message))
        except OSError:
            return False
        return True

    def run(self) -> int:
        """The whole life; returns the exit status."""
        saved = machine.lower_priority()
        try:
            self.say(Booting("importing the app"))
            self._application = Application(self.start, self._drain)
            self._application.load()
            with asyncio.Runner(loop_factory=_loop_factory(self.settings.loop)) as runner:
                return runner.run(self._live(lambda: machine.restore_priority(saved)))
        except BootError as exc:
            self._report(exc.reason, exc.detail)
        except ConfigError as exc:
            self._report_refusal(exc)
        except BaseException as exc:  # whatever an app does at import, SystemExit too, is the reason of the refusal
            self._report(f"the app raised {type(exc).__name__}: {exc}", traceback.format_exc())
        return EXIT_BOOT

    async def _live(self, booted: Callable[[], Any]) -> int:
        loop = asyncio.get_running_loop()
        self._retire = loop.create_future()
        self._serve = loop.create_future()
        self._channel = Channel(self._sock, self._hear, self._orphaned)
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_leave)
        application = self._application
        assert application is not None
        with use_drain(self._drain):
            self._beat_due = loop.time()
            beats = loop.create_task(self._beats(), name="holdfast heartbeat")
            try:
                await application.start(self.say)
                _tune_collector()
                booted()
                self.say(Ready(application.secrets))
                decision: set[asyncio.Future[Any]] = {self._retire, self._serve}
                await asyncio.wait(decision, return_when=asyncio.FIRST_COMPLETED)
                if not self._serve.done():  # not wanted after all, or orphaned: it has taken nothing
                    await application.abort()
                    return 0
                await application.serve()
                self._serving.set()
                self.say(application.beat(self._lag))
                order = await self._retire
                loop.call_soon(self.say, Draining())  # once the drain has come to its first wait
                unfinished, migrated = await application.drain(order)
                unfinished = _named(unfinished)
                self.say(Retired(unfinished, migrated))
                if unfinished:
                    logger.warning("not finished when the worker ended: %s", ", ".join(unfinished))
                await self._flush()
                machine.lower_priority()  # what is left is tearing down, beside a successor that serves
            except (BootError, ConfigError) as exc:
                await application.abort()
                if isinstance(exc, BootError):
                    self._report(exc.reason, exc.detail)
                else:
                    self._report_refusal(exc)
                await self._flush()
                return EXIT_BOOT
            finally:
                beats.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beats
        return 0

    async def _beats(self) -> None:
        """From the loop, not from a thread: a blocked loop is to be seen."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            self._lag = max(0.0, now - self._beat_due)
            assert self._channel is not None
            assert self._application is not None
            if self._channel.idle:  # a supervisor that does not read needs no pile of old news
                self._channel.send(self._application.beat(self._lag))
            self._beat_due = now + BEAT_INTERVAL
            await asyncio.sleep(BEAT_INTERVAL)

    def _hear(self, message: AnyMessage) -> None:
        match message:
            case LameDuck(on):
                if self._application is not None:
                    self._application.lame_duck(on)
            case Serve():
                if not self._serve.done():
                    self._serve.set_result(None)
            case Configure() | Apply() | Forget():
                if self._application is not None:
                    self._application.configure(message, self.say)
            case Count(ticket):
                if self._application is not None:
                    self._application.count(ticket, self.say)
            case Retire():
                self._order(message)
            case _:
                pass  # what only a worker says

    def _order(self, order: Retire) -> None:
        assert self._retire is not None
        if not self._retire.done():
            self._retire.set_result(order)
        elif self._application is not None:
            self._application.amend(order)

    def _asked_to_leave(self) -> None:
        """SIGTERM from somebody: a replacement comes first, then the supervisor says when to drain."""
        self.say(Leave("it got SIGTERM"))

    def _orphaned(self) -> None:
        """The supervisor is gone. There is no successor: finish what is here and end."""
        logger.error("the supervisor is gone: this worker drains and ends")
        settings = self.settings
        self._order(Retire(settings.stop_timeout, False, min(settings.idle_grace, settings.stop_timeout), "orphaned"))

    async def _flush(self) -> None:
        assert self._channel is not None
        for _ in range(100):  # a second at most: the supervisor may be stopped
            if self._channel.idle:
                return
            await asyncio.sleep(0.01)

    def _report_refusal(self, error: ConfigError) -> None:
        mistakes = each(error)
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        self._report(f"{mistakes[0]}{more}", str(error) if more else "")

    def _report(self, reason: str, detail: str) -> None:
        detail = detail[-MAX_DETAIL:]
        if not self.say(Failed(reason[:1024], detail)):  # otherwise the supervisor logs it
            logger.error("%s%s", reason, f"\n{detail}" if detail else "")


def main() -> int:
    """Entry of ``python -m holdfast.supervisor.worker FD``."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to the whole group; the supervisor decides
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    try:
        start = read_start(sock, START_LIMIT)
    except BootError as exc:
        with contextlib.suppress(OSError):
            sock.sendall(frame(Failed(exc.reason, "")))
        return EXIT_BOOT
    if start is None:
        return EXIT_ORPHAN
    for fd in (start.dump, *start.intake, *(entry.fd for entry in start.sockets)):
        os.set_inheritable(fd, False)
    faulthandler.register(DUMP_SIGNAL, file=start.dump, all_threads=True)
    os.environ["HOLDFAST_WORKER"] = str(start.slot)
    os.environ["HOLDFAST_GENERATION"] = str(start.generation)
    settings = start.settings
    configure_log(start, settings)
    serving = threading.Event()
    lifeline = os.dup(sock.fileno())  # its own: the channel closes the other one
    limit = settings.stop_timeout + ORPHAN_MARGIN
    listeners = _inodes(*(entry.fd for entry in start.sockets))
    threading.Thread(
        target=_end_with_supervisor, args=(lifeline, limit, serving, listeners), daemon=True, name="lifeline"
    ).start()
    ours = listeners | _inodes(sock.fileno(), lifeline, *start.intake)
    os.register_at_fork(after_in_child=lambda: _let_go(ours))  # an app's child may outlive the service
    sys.argv[:] = [settings.app]
    return WorkerProcess(start, sock, serving).run()


def _end_with_supervisor(fd: int, limit: float, serving: threading.Event, listeners: dict[int, int]) -> None:
    """In a thread of its own: an orphan whose loop is blocked ends too, only later. One that has not accepted anything
    yet gives the address free at once."""
    poller = select.poll()
    poller.register(fd, 0)  # a hang-up is reported without being asked for
    poller.poll()
    if not serving.is_set():
        _let_go(listeners)
    time.sleep(limit)
    os._exit(EXIT_ORPHAN)


def _named(unfinished: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..." for name in unfinished)
    more = len(names) - MAX_UNFINISHED
    return (*names[:MAX_UNFINISHED], f"and {more} more") if more > 0 else names


def _inodes(*descriptors: int) -> dict[int, int]:
    return {fd: os.fstat(fd).st_ino for fd in descriptors}


def _let_go(descriptors: dict[int, int]) -> None:
    """Close this process's copies, unless a number is another file's by now."""
    for fd, inode in descriptors.items():
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino == inode:
                os.close(fd)


def _tune_collector() -> None:
    """What start-up left stays for ever: take it out of the collector's sight, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise BootError(
                    'uvloop is not installed: pip install "holdfast[server]", or use --loop asyncio'
                ) from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
