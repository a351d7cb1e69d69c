"""Payments: charges cards. The acquirer behind it is only imagined; it takes a few milliseconds and may decline."""

import asyncio
import random
import secrets

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast import Service
from shop.web import answer, make_app, read_body

ACQUIRER_SECONDS = (0.002, 0.006)
NO_FUNDS = "0000"
"""A card whose number ends like this is always declined."""


class Charge(msgspec.Struct, forbid_unknown_fields=True):
    """``amount`` is in cents."""

    order: str
    amount: int
    card: str


async def charge(request: Request) -> Response:
    """201 with the number of the charge, 402 when the card is declined."""
    wanted = await read_body(request, Charge)
    if wanted.amount <= 0:
        raise HTTPException(422, f"amount is {wanted.amount}; it must be above 0")
    await asyncio.sleep(random.uniform(*ACQUIRER_SECONDS))
    if wanted.card.endswith(NO_FUNDS):
        raise HTTPException(402, f"the card ending in {wanted.card[-4:]} was declined")
    return answer({"id": secrets.token_hex(8)}, 201)


service = Service("payments", make_app([Route("/charges", charge, methods=["POST"])]))
