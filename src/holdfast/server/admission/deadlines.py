"""What trusted peers say of a request: how much time is left for it, how much it matters, whose experiment it is.

Time travels as what remains, never as a time of day: clocks differ. Nobody can ask for more than the route allows. A
proxy is believed in all that it sends, so one at the edge must remove these headers from what clients send, or set
them itself.
"""

import re
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from holdfast.core.context import Criticality
from holdfast.server.admission.patterns import Headers

COLOUR_LIMIT: Final = 64
"""Characters of a colour."""
MILLISECONDS: Final = 0.001

_GRPC: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WHOLE: Final = re.compile(rb"[0-9]{1,12}")
_COLOUR: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,%d}" % (COLOUR_LIMIT - 1))
_LEVELS: Final = {level.name.lower().encode(): level for level in Criticality}


class Told(msgspec.Struct):
    """What one request's headers say. ``seconds`` is ``inf`` and the others are None when they say nothing."""

    seconds: float = inf
    criticality: Criticality | None = None
    colour: str | None = None


class Hearing:
    """Reads these headers, and counts what made no sense. Belongs to one thread."""

    def __init__(self) -> None:
        self.junk = 0
        """Values that could not be read, and were left out of account."""
        self._readers: dict[bytes, Callable[[bytes, Told], bool]] = {
            b"grpc-timeout": _read_grpc,
            b"x-envoy-expected-rq-timeout-ms": _read_envoy,
            b"holdfast-timeout-ms": _read_own,
            b"holdfast-criticality": _read_criticality,
            b"holdfast-colour": _read_colour,
        }

    def listen(self, headers: Headers) -> Told | None:
        """What ``headers``, which a trusted peer has sent, say; None when that is nothing.

        Of several times the shortest counts, of several criticalities the lowest, of several colours the first.
        """
        told = None
        readers = self._readers
        for name, value in headers:
            if name in readers:
                told = told or Told()
                if not readers[name](value, told):
                    self.junk += 1
        return told


def clamp(asked: Criticality | None, configured: Criticality | None) -> Criticality:
    """The criticality of a request: what was asked for, and never more than the route has, if it has one."""
    if asked is None:
        return Criticality.CRITICAL if configured is None else configured
    return asked if configured is None else min(asked, configured)


def _read_grpc(value: bytes, told: Told) -> bool:
    found = _GRPC.fullmatch(value)
    if found is None:
        return False
    told.seconds = min(told.seconds, int(found[1]) * _UNITS[found[2]])
    return True


def _read_envoy(value: bytes, told: Told) -> bool:
    # Envoy's 0 means that there is no limit.
    if not _WHOLE.fullmatch(value):
        return False
    told.seconds = min(told.seconds, int(value) * MILLISECONDS or inf)
    return True


def _read_own(value: bytes, told: Told) -> bool:
    if not _WHOLE.fullmatch(value):
        return False
    told.seconds = min(told.seconds, int(value) * MILLISECONDS)
    return True


def _read_criticality(value: bytes, told: Told) -> bool:
    level = _LEVELS.get(value.lower()) if len(value) <= COLOUR_LIMIT else None
    if level is None:
        return False
    told.criticality = level if told.criticality is None else min(told.criticality, level)
    return True


def _read_colour(value: bytes, told: Told) -> bool:
    if not _COLOUR.fullmatch(value):
        return False
    if told.colour is None:
        told.colour = value.decode()
    return True
