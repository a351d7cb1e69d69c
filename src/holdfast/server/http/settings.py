"""Limits and time-outs of the HTTP engine."""

import msgspec


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine. Durations are seconds, sizes are bytes. Safe to share between threads.

    Sources of the defaults: ``keep_alive`` 75 s is nginx's and what most load balancers expect to be outlived
    by; ``body_rate`` 240 bytes a second is Kestrel's minimum request body rate; ``send_timeout`` 60 s is nginx's.
    """

    keep_alive: float = 75.0
    """How long an idle connection is kept. No shorter than the idle time-out of the client or balancer in front."""
    header_timeout: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout: float = 10.0
    """A window of this length must bring ``body_rate * body_timeout`` bytes of an awaited body, or its end."""
    body_rate: float = 240.0
    send_timeout: float = 60.0
    """How long a client may leave a full write buffer unread."""
    handshake_timeout: float = 10.0
    """For a TLS handshake."""
    linger: float = 2.0
    """How long unread request bytes are read and dropped after the last answer, so that closing does not reset it."""
    max_header_size: int = 64 * 1024
    """Request line and headers together."""
    max_body_size: int = 100 * 1024 * 1024
    """Of one request; 0 means no limit."""
    max_connections: int = 0
    """Open at once in this engine; further ones wait in the kernel's queue. 0: what the descriptor limit allows."""
    stream_grace: float = 1.0
    """What a WebSocket or event stream has, after the drain event, for its last messages."""
    stream_spread: float = 3.0
    """WebSockets and event streams are told to reconnect spread over this time, so that they do not all at once."""
    close_timeout: float = 5.0
    """How long to wait for the peer's half of a WebSocket close."""
    ws_max_size: int = 16 * 1024 * 1024
    ws_ping_interval: float = 20.0
    ws_ping_timeout: float = 20.0
    root_path: str = ""
    access_log: bool = False
