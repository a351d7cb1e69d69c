"""TLS in the engine: certificates that change, peers that speak something else, ends without a goodbye."""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from holdfast.core.errors import ConfigError
from holdfast.core.watch import Watch
from holdfast.server.http.tls import TlsSettings, make_context, watch_certificates
from server.engineroom import LOOPS, Client, Room, answer, read_body, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = await read_body(receive)
    await answer(send, scope["scheme"].encode() + b" %d" % len(body))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Files:
    """A certificate and its key on disk, which can be replaced."""

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self.settings = TlsSettings(certificate=directory / "cert.pem", key=directory / "key.pem")
        self._authority = authority
        self.issue("first.test")

    def issue(self, name: str) -> None:
        issued = self._authority.issue_cert("127.0.0.1", name)
        assert self.settings.key is not None
        issued.private_key_pem.write_to_path(str(self.settings.key))
        issued.cert_chain_pems[0].write_to_path(str(self.settings.certificate))
        stamp = self.settings.certificate.stat().st_mtime_ns + 10_000_000
        os.utime(self.settings.certificate, ns=(stamp, stamp))


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def names(client: Client) -> set[str]:
    found = client.writer.get_extra_info("ssl_object").getpeercert()["subjectAltName"]
    return {name for kind, name in found if kind == "DNS"}


@both_loops
def test_it_serves_and_a_refused_body_is_answered(loop: str, files: Files, trusting: ssl.SSLContext) -> None:
    async def work() -> None:
        async with serving(app, tls=make_context(files.settings), max_body_size=1000) as room:
            client = await room.connect(ssl=trusting)
            assert (await client.get()).body == b"https 0"
            assert names(client) == {"first.test"}
            client.writer.write(request("POST", "/", "Content-Length: 3000000") + b"x" * 3_000_000)
            assert (await client.response()).status == 413

    run(work, loop)


@both_loops
def test_an_idle_connection_is_closed_with_a_goodbye_and_a_silent_peer_holds_nothing_up(
    loop: str, files: Files, trusting: ssl.SSLContext
) -> None:
    async def work() -> None:
        async with serving(app, tls=make_context(files.settings), keep_alive=0.3, linger=0.3) as room:
            client, stuck = await room.connect(ssl=trusting), await room.connect(ssl=trusting)
            await client.get()
            await stuck.get()
            stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]  # no answer to the goodbye
            assert await client.ended()
            await until(lambda: not room.state.connections, 4)

    run(work, loop)


@both_loops
def test_plain_text_and_half_handshakes_are_nobodys_failure(
    loop: str, files: Files, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(app, tls=make_context(files.settings), handshake_timeout=0.3) as room:
            plain = await room.connect()
            await plain.send(request("GET", "/"))
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in await plain.rest()
            half = await room.connect()
            await half.send(b"\x16\x03\x01\x02\x00\x01")
            with contextlib.suppress(ConnectionResetError):
                await half.rest()
            assert (await (await room.connect(ssl=trusting)).get()).status == 200
            await until(lambda: len(room.state.connections) == 1)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    run(work, loop)


def test_a_half_handshake_does_not_hold_up_a_drain(files: Files, trusting: ssl.SSLContext) -> None:
    async def work() -> None:
        async with serving(app, tls=make_context(files.settings), linger=0.2) as room:
            half = await room.connect()
            await half.send(b"\x16\x03\x01\x02\x00\x01")
            client = await room.connect(ssl=trusting)
            await until(lambda: room.state.accepted == 2)
            task = await room.begin_drain(0.8, idle_grace=0.6)
            assert (await client.get()).headers["connection"] == "close"
            await task

    run(work)


def test_a_client_must_have_a_certificate_where_one_is_asked_for(
    files: Files, trusting: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = TlsSettings(
        certificate=files.settings.certificate, key=files.settings.key, client_ca=tmp_path / "ca.pem"
    )

    async def work() -> None:
        async with serving(app, tls=make_context(settings)) as room:
            stranger = await room.connect(ssl=trusting)
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                await stranger.get()
            authority.issue_cert("client.test").configure_cert(trusting)
            assert (await (await room.connect(ssl=trusting)).get()).status == 200

    run(work)


async def _following(room: Room, files: Files, contexts: Watch[ssl.SSLContext]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_certificates(files.settings, contexts, interval=0.02))
        async for context in contexts.changes():
            for listening in room.engine.listeners.values():
                listening.tls = context


def test_a_changed_certificate_is_for_new_connections_and_a_broken_one_for_none(
    files: Files, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        first = make_context(files.settings)
        contexts = Watch(first)
        async with serving(app, tls=first) as room:
            following = asyncio.create_task(_following(room, files, contexts))
            old = await room.connect(ssl=trusting)
            await old.get()
            await asyncio.sleep(0.1)
            files.issue("second.test")
            await until(lambda: room.engine.listeners[0].tls is not first)
            await asyncio.sleep(0.1)
            new = await room.connect(ssl=trusting)
            assert names(new) == {"second.test"}
            assert (await old.get()).status == 200
            assert names(old) == {"first.test"}
            files.settings.certificate.write_text("broken")
            await until(lambda: "the last good one stays" in caplog.text)
            assert names(await room.connect(ssl=trusting)) == {"second.test"}
            files.issue("third.test")
            second = room.engine.listeners[0].tls
            await until(lambda: room.engine.listeners[0].tls is not second)
            following.cancel()

    run(work)


def _no_key(files: Files) -> TlsSettings:
    return TlsSettings(certificate=files.settings.certificate, key=files.settings.certificate.with_name("none.pem"))


def _not_a_key(files: Files) -> TlsSettings:
    return TlsSettings(certificate=files.settings.certificate, key=files.settings.certificate)


@pytest.mark.parametrize("make", [_no_key, _not_a_key])
def test_files_that_cannot_be_used_are_named(make: Callable[[Files], TlsSettings], files: Files) -> None:
    with pytest.raises(ConfigError, match=r"^tls: got '") as refused:
        make_context(make(files))
    assert refused.value.value in (str(make(files).key), str(make(files).certificate))
