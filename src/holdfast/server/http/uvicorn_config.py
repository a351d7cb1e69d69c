"""What uvicorn's protocols want to be told."""

import asyncio
from typing import Any

from uvicorn.config import Config

from holdfast.server.http.protocol import HttpProtocol
from holdfast.server.http.settings import HttpSettings


def configured(app: Any, settings: HttpSettings) -> Config:
    """uvicorn's Config, filled in rather than loaded: ``load`` would import, and call, the app."""
    config = Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        lifespan="off",
        interface="asgi3",
        root_path=settings.root_path,
        ws_max_size=settings.ws_max_size,
        ws_ping_interval=settings.ws_ping_interval or None,
        ws_ping_timeout=settings.ws_ping_timeout or None,
        workers=1,
    )
    config.loaded_app = app
    config.http_protocol_class = HttpProtocol
    config.ws_protocol_class = asyncio.Protocol  # any: the connection that is upgraded says which one
    config.encoded_headers = []
    config.ssl = None
    config.loaded = True
    return config
