"""What the demo's customers do: the traffic that goes on all the time, and more of it for a while."""

from typing import Any, Final

from holdfast.lab.load import Load
from holdfast.lab.tally import Kind
from holdfast.lab.traffic import Part

FOREVER: Final = 86_400.0
"""The longest load there is, in seconds."""
CONNECTIONS: Final = 10
"""Of each kind of request. A hung worker holds on to some; the others have to carry the rate meanwhile."""
BROWSERS: Final = 400
"""Connections of those who come to look at the catalogue: so many that they do not only wait for each other. A hundred
busy connections would each wait for a moment, and the gateway would answer them all."""
REQUEST_TIMEOUT: Final = 10.0
"""Longer than the gateway's own limit towards the services behind it: what is told to the client is counted."""


def steady(address: str, rate: float, order: str) -> list[Part]:
    """``rate`` requests a second at the gateway, for ever. ``order`` is one that can be asked for.

    A quarter places orders; of each kind of request some keep their connections, the rest opens new ones.
    """
    body = b'{"sku": "%s", "card": "4242424242424242"}'
    kinds: tuple[tuple[Kind, float, dict[str, Any]], ...] = (
        ("orders", 0.15, {"mode": "keepalive", "method": "POST", "path": "/orders", "body": body % b"rope"}),
        ("orders", 0.10, {"mode": "connect", "method": "POST", "path": "/orders", "body": body % b"chain"}),
        ("parcels", 0.25, {"mode": "keepalive", "path": f"/orders/{order}"}),
        ("browsing", 0.25, {"mode": "keepalive", "path": "/products"}),
        ("browsing", 0.25, {"mode": "connect", "path": "/products"}),
    )
    parts = []
    for number, (kind, share, values) in enumerate(kinds):
        headers = (("content-type", "application/json"), ("x-order-reference", f"{number}-{{n}}"))
        load = Load(
            addresses=(address,),
            headers=headers if kind == "orders" else (),
            rate=rate * share,
            connections=CONNECTIONS,
            duration=FOREVER,
            timeout=REQUEST_TIMEOUT,
            **values,
        )
        parts.append(Part(load, kind, receipts=kind == "orders"))
    return parts


def looking(address: str, rate: float, seconds: float) -> Part:
    """``rate`` more requests a second for the page of the catalogue; they end after ``seconds``."""
    return Part(
        Load(
            addresses=(address,),
            path="/products/catalogue",
            rate=rate,
            connections=BROWSERS,
            duration=seconds,
            count=round(rate * seconds),
            timeout=REQUEST_TIMEOUT,
        ),
        "browsing",
    )
