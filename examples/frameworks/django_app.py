"""Django, ASGI, the whole project in one file: sync views, and an async one that streams."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from frameworks.stock import Stock

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),  # a real project keeps one: sessions are signed with it
    DEBUG_PROPAGATE_EXCEPTIONS=True,  # the server answers for exceptions, with DEBUG off too
)

stock = Stock()


def product(request: HttpRequest, sku: str) -> JsonResponse:
    return JsonResponse(asdict(stock.find(sku)))


def order(request: HttpRequest) -> JsonResponse:
    new = json.loads(request.body)
    return JsonResponse(asdict(stock.sell(new["sku"], new["quantity"])), status=201)


def report(request: HttpRequest) -> JsonResponse:
    seconds = float(request.GET.get("seconds", "0.5"))
    time.sleep(seconds)
    return JsonResponse({"took": seconds})


async def export(request: HttpRequest) -> StreamingHttpResponse:
    rows = int(request.GET.get("rows", "10"))

    async def lines() -> AsyncIterator[str]:
        for number in range(rows):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingHttpResponse(lines(), content_type="text/csv")


urlpatterns = [
    path("products/<str:sku>", product),
    path("orders", order),
    path("report", report),
    path("export", export),
]

app = get_asgi_application()
