"""TLS contexts, and certificates that change while the service runs."""

import asyncio
import logging
import ssl
from pathlib import Path

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError
from holdfast.core.watch import Watch

logger = logging.getLogger("holdfast.tls")

POLL_INTERVAL = 5.0
"""Seconds between looks at the files. Polled, because Kubernetes replaces a mounted secret by swapping links."""


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the certificate chain, its key and, for client certificates, the trusted authorities lie (PEM files)."""

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path is not None)


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """A server context, TLS 1.2 and up. Raises ConfigError naming the file that cannot be used.

    A client must present a certificate signed by ``client_ca`` when that is set.
    """
    for path in settings.files:
        try:
            found = path.is_file()
        except OSError:  # a directory on the way may not be entered
            found = False
        if not found:
            raise ConfigError("tls", str(path), "a readable PEM file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key would ask on the terminal: refuse it instead.
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
        if settings.client_ca is not None:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise ConfigError(
            "tls", str(settings.certificate), f"a certificate chain with its matching key ({exc})"
        ) from exc
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; give the service an unencrypted one, readable by it alone")


async def watch_certificates(
    settings: TlsSettings, contexts: Watch[ssl.SSLContext], *, clock: Clock = SYSTEM, interval: float = POLL_INTERVAL
) -> None:
    """Set a new context whenever the files change, for ever. New files that do not load change nothing and are logged.

    Connections keep the certificate they began with. Cancel to stop.
    """
    seen = await asyncio.to_thread(_stamp, settings)
    while True:
        await clock.sleep(interval)
        stamp = await asyncio.to_thread(_stamp, settings)
        if stamp == seen:
            continue
        try:
            context = await asyncio.to_thread(make_context, settings)
        except ConfigError as exc:
            logger.error("the changed certificate is not used, the last good one stays: %s", exc)
        else:
            contexts.set(context)
            logger.info("new connections get the changed certificate %s", settings.certificate)
        seen = stamp


def _stamp(settings: TlsSettings) -> tuple[tuple[int, int, int] | None, ...]:
    def look(path: Path) -> tuple[int, int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    return tuple(look(path) for path in settings.files)
