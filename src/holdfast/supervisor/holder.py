"""Which process holds an address: for the message of one that could not be bound. Linux only, from /proc."""

import ipaddress
import os
import struct
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MAX_NAMED", "MAX_SCANNED", "holders"]

MAX_SCANNED = 4096
"""Processes that are looked at."""

MAX_NAMED = 3
"""Processes that are named: a predecessor's workers hold the same address together."""

_MAX_COMMAND = 60
_LISTENING = "0A"  # TCP_LISTEN
_ACCEPTING = 0x10000  # __SO_ACCEPTCON of a unix socket


def holders(target: tuple[str | int, ...] | str, proc: Path = Path("/proc")) -> str:
    """The processes that listen where `target`, a socket address, is wanted, as `pid 12 (nginx), pid 13
    (nginx)`.

    Empty when it cannot be told: not Linux, or the process belongs to another user or another container.
    """
    inodes = set(_unix_inodes(target, proc) if isinstance(target, str) else _tcp_inodes(target, proc))
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    named: list[str] = []
    for scanned, entry in enumerate(_entries(proc)):
        if scanned >= MAX_SCANNED or len(named) >= MAX_NAMED:
            break
        if entry.name.isdigit() and any(_link(fd) in wanted for fd in _entries(entry / "fd")):
            named.append(f"pid {entry.name} ({_command(entry)})")
    return ", ".join(named)


def _tcp_inodes(target: tuple[str | int, ...], proc: Path) -> Iterator[str]:
    wanted = ipaddress.ip_address(str(target[0]).partition("%")[0])
    for name in ("tcp", "tcp6"):
        for line in _lines(proc / "net" / name)[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTENING:
                continue
            address, _, port = fields[1].partition(":")
            if int(port, 16) != target[1]:
                continue
            held = _unhexed(address)
            if held == wanted or held.is_unspecified or wanted.is_unspecified:
                yield fields[9]


def _unhexed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints 32-bit words in the machine's own byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return ipaddress.ip_address(packed)


def _unix_inodes(path: str, proc: Path) -> Iterator[str]:
    for line in _lines(proc / "net/unix")[1:]:
        # Num RefCount Protocol Flags Type St Inode Path; a path may hold spaces.
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path and int(fields[3], 16) & _ACCEPTING:
            yield fields[6]


def _command(process: Path) -> str:
    if process.name == str(os.getpid()):
        return "this process"
    words = "".join(_lines(process / "cmdline")[:1]).replace("\0", " ").strip()
    text = words or "".join(_lines(process / "comm")[:1])
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= _MAX_COMMAND else f"{printable[: _MAX_COMMAND - 3]}..."


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # it has ended, or is another user's
        return []


def _link(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:
        return ""
