"""The drain-aware HTTP/1.1 and WebSocket engine, on uvicorn's protocol, httptools and uvloop."""

from holdfast.server.http.engine import DrainReport, HttpEngine
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening

__all__ = ["DrainReport", "HttpEngine", "HttpSettings", "Listening"]
