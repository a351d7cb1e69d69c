"""The drain-aware HTTP/1.1 and WebSocket engine, on uvicorn's protocol, httptools and uvloop."""
