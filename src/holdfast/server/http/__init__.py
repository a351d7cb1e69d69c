"""The drain-aware HTTP/1.1 and WebSocket engine, on uvicorn's protocol, httptools and uvloop."""

from holdfast.server.http.engine import DrainReport, HttpEngine, Listening
from holdfast.server.http.settings import HttpSettings

__all__ = ["DrainReport", "HttpEngine", "HttpSettings", "Listening"]
