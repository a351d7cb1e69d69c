"""Where a service listens, as people write it: `127.0.0.1:8000`, `[::1]:8000`, `8000`,
`unix:/run/x.sock`, `fd:3`.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Literal

import msgspec

from holdfast.core.errors import ConfigError

__all__ = ["LOOPBACK", "MAX_PORT", "MAX_UNIX_PATH", "Address", "parse_bind"]

LOOPBACK = "127.0.0.1"
"""Where a bare port listens: nobody else is let in unless somebody asks for it."""

MAX_PORT = 65535

MAX_UNIX_PATH = 103
"""Bytes of a socket's path on every system: 108 on Linux, 104 on macOS, with the closing zero."""

_FORMS = "HOST:PORT, [IPV6]:PORT, PORT, unix:PATH or fd:N"
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_HOST = 253


_Wrong = Callable[..., ConfigError]


class Address(msgspec.Struct, frozen=True):
    """A place to listen. `str()` gives the text from which `parse_bind` makes an equal address."""

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""  # tcp: a name in lower case, or a number in its shortest form, without brackets
    port: int = 0  # tcp: 0 lets the kernel choose
    path: str = ""  # unix
    fd: int = -1  # fd: a listening socket that this process has inherited

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bind(text: str, path: str = "bind", source: str = "") -> Address:
    """The address that `text` means. A bare port means loopback.

    Raises ConfigError; `path` and `source` are the setting's place for its message.
    """

    def wrong(expected: str, hint: str = "") -> ConfigError:
        return ConfigError(path, text, expected, source, hint)

    if text.startswith("unix:"):
        return _unix(text[len("unix:") :], wrong)
    if text.startswith("fd:"):
        number = text[len("fd:") :]
        if not _is_number(number):
            raise wrong("fd: and the number of an inherited descriptor", "write fd:3, for example")
        return Address("fd", fd=int(number))
    if "://" in text:
        raise wrong(_FORMS, "leave the scheme away; TLS is switched on by its own settings")
    if text.startswith("/"):
        raise wrong(_FORMS, f"for a unix socket write unix:{text}")
    if _is_number(text):
        return Address("tcp", LOOPBACK, _port(text, wrong))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise wrong(_FORMS, f"add a port: {text or LOOPBACK}:8000")
    if not host:
        # Elsewhere this means every network, which nobody should get by leaving something out, and loopback
        # would silently not be what such a person expects.
        raise wrong("a host before the port", f"write {LOOPBACK}:{port}, or 0.0.0.0:{port} for every network")
    return Address("tcp", _host(host, port, wrong), _port(port, wrong))


def _host(host: str, port: str, wrong: _Wrong) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise wrong("an IPv6 address between the brackets", str(error)) from None
    if ":" in host:
        raise wrong(_FORMS, f"put the IPv6 address in brackets: [{host}]:{port}")
    if host == "*":
        raise wrong("a host before the port", f"write 0.0.0.0:{port} for every network")
    if re.fullmatch(r"[0-9.]+", host):
        # The resolver would take 10.1 for 10.0.0.1.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise wrong("an IPv4 address of four numbers", str(error)) from None
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise wrong("a host name or address before the port")
    return host.lower()


def _port(text: str, wrong: _Wrong) -> int:
    if not _is_number(text) or int(text) > MAX_PORT:
        raise wrong(f"a port from 0 to {MAX_PORT}")
    return int(text)


def _unix(name: str, wrong: _Wrong) -> Address:
    if not name or "\0" in name or name.endswith("/"):
        raise wrong("the path of a unix socket after unix:", "write unix:/run/orders.sock, for example")
    if name.startswith("@"):
        raise wrong(
            "a path in the file system",
            "an abstract socket has no permissions: any user of this host may connect",
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise wrong("a path in UTF-8") from None
    if size > MAX_UNIX_PATH:
        raise wrong(f"a path of at most {MAX_UNIX_PATH} bytes, the system's limit", "choose a shorter directory")
    return Address("unix", path=name)


def _is_number(text: str) -> bool:
    # int() would also take +8, 8_0 and the digits of other scripts.
    return text.isascii() and text.isdigit() and len(text) <= 9
