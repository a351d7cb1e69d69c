"""How one service of the shop calls another: pooled connections, a time limit, no retries."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import isfinite
from typing import Any

import aiohttp
from starlette.exceptions import HTTPException

from holdfast.core.context import current, remaining

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)
IDLE_SECONDS = 60.0
"""Shorter than the 75 s for which a Holdfast service keeps an idle connection: the caller is first to close it."""
CONNECTIONS = 100


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A pool of connections for one worker."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
        # By itself aiohttp sends an idempotent request again when a kept connection turns out to be dead. The shop
        # is there to show what is lost, so nothing is sent twice. There is no public switch for it.
        session._retry_connection = False
        yield session


class Upstream:
    """Another service of the shop, at the address that an environment variable gives."""

    def __init__(self, name: str, variable: str, default: str) -> None:
        self.name = name
        self.url = os.environ.get(variable, default).rstrip("/")

    async def call(self, session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. Raises HTTPException: 502 and 504 when there is none, 503 when the other service has too
        much to do, and its own 4xx with its own words."""
        try:
            async with session.request(method, self.url + path, json=body, headers=passed_on()) as answer:
                content = await answer.json(content_type=None)
                status = answer.status
        except TimeoutError:
            raise HTTPException(504, f"{self.name} did not answer {method} {path} within {TIMEOUT.total:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise HTTPException(
                502, f"{self.name} could not be asked {method} {path}: {type(error).__name__}"
            ) from error
        if status in (429, 503):  # it was the shop that came too often, not its customer
            raise HTTPException(503, f"{self.name} has too much to do")
        if status >= 500:
            detail = content.get("detail", "") if isinstance(content, dict) else ""
            raise HTTPException(502, f"{self.name} failed with {status} on {method} {path}: {detail}".rstrip(": "))
        if status >= 400:
            raise HTTPException(status, content.get("detail", "") if isinstance(content, dict) else "")
        return content


def passed_on() -> dict[str, str]:
    """What the next service has to know of the request that is worked on: how much it matters, and until when."""
    told = {"holdfast-criticality": current().criticality.name.lower()}
    if isfinite(left := remaining()):
        told["holdfast-timeout-ms"] = f"{left * 1e3:.0f}"
    return told
