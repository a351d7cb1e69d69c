"""The seventeen canonical codes: what went wrong, in words that HTTP, gRPC and people share.

They are those of ``google.rpc.Code``, with its numbers and its HTTP statuses. Of two codes that both fit, take the
narrower one. Three are often mixed up. UNAVAILABLE: send the same call again, a little later. ABORTED: begin again
further up, with what you read before the call. FAILED_PRECONDITION: first somebody has to put something right.
"""

import enum
from typing import Final


class Code(enum.Enum):
    """A canonical code. ``Code("not_found")`` reads the name that settings and problem details write.

    ``http`` is the status that answers it, ``grpc`` its number. ``retryable``: by the code alone, whether the same
    call may be sent again, if doing it twice does no harm. That is UNAVAILABLE only (AIP-194): RESOURCE_EXHAUSTED may
    mean a quota that is empty for hours, and after DEADLINE_EXCEEDED nobody waits any more. ``sentence`` is what a
    client is told when there is nothing better.
    """

    grpc: int
    http: int
    sentence: str
    retryable: bool

    OK = "ok"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATA_LOSS = "data_loss"
    UNAUTHENTICATED = "unauthenticated"

    def __repr__(self) -> str:
        return f"Code.{self.name}"

    @classmethod
    def of_http(cls, status: int) -> "Code":
        """What a peer means by an HTTP status; UNKNOWN for what is none, or is no answer.

        A status that is not known counts as the x00 of its class (RFC 9110, section 15). Several codes share a status:
        400, 409 and 500 give the most general of them. A problem body with a ``code`` says it exactly, and so does
        ``grpc-status``.
        """
        return _BY_HTTP.get(status) or _BY_CLASS.get(status // 100, cls.UNKNOWN)

    @classmethod
    def of_grpc(cls, number: int) -> "Code":
        """What a peer means by a gRPC status number; UNKNOWN for one that is none."""
        return _BY_GRPC.get(number, cls.UNKNOWN)


_MEANINGS: Final = (
    (Code.OK, 0, 200, "Done."),
    (Code.CANCELLED, 1, 499, "The request was called off."),
    (Code.UNKNOWN, 2, 500, "The service failed to answer, and does not know why."),
    (Code.INVALID_ARGUMENT, 3, 400, "Something in the request is wrong."),
    (Code.DEADLINE_EXCEEDED, 4, 504, "There was no answer in time."),
    (Code.NOT_FOUND, 5, 404, "There is no such thing."),
    (Code.ALREADY_EXISTS, 6, 409, "It exists already."),
    (Code.PERMISSION_DENIED, 7, 403, "You may not do this."),
    (Code.RESOURCE_EXHAUSTED, 8, 429, "There were too many requests, or a quota is used up."),
    (Code.FAILED_PRECONDITION, 9, 400, "Things are not in a state in which this can be done."),
    (Code.ABORTED, 10, 409, "Something else got in between. Begin again with what holds now."),
    (Code.OUT_OF_RANGE, 11, 400, "That lies beyond the end of what there is."),
    (Code.UNIMPLEMENTED, 12, 501, "The service does not offer this."),
    (Code.INTERNAL, 13, 500, "The service failed to answer."),
    (Code.UNAVAILABLE, 14, 503, "The service cannot take this now. Try again later."),
    (Code.DATA_LOSS, 15, 500, "Data was lost or is damaged."),
    (Code.UNAUTHENTICATED, 16, 401, "Say who you are first."),
)
# Not as values of the members with a __new__: type checkers would refuse Code("not_found") then.
for _code, _grpc, _http, _sentence in _MEANINGS:
    _code.grpc = _grpc
    _code.http = _http
    _code.sentence = _sentence
    _code.retryable = _code is Code.UNAVAILABLE

_BY_GRPC: Final = {code.grpc: code for code in Code}
_BY_CLASS: Final = {2: Code.OK, 4: Code.INVALID_ARGUMENT, 5: Code.INTERNAL}
# Only where it differs from the class. What tells a client to come back maps to UNAVAILABLE: such an answer was
# given instead of doing the work. A 412 or a 428 is about the state of things, a 405 about what is offered at all.
_BY_HTTP: Final = {
    401: Code.UNAUTHENTICATED,
    402: Code.FAILED_PRECONDITION,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    407: Code.UNAUTHENTICATED,
    408: Code.UNAVAILABLE,  # the server had not heard the whole request; RFC 9110 allows to repeat it
    409: Code.ABORTED,
    410: Code.NOT_FOUND,
    412: Code.FAILED_PRECONDITION,
    416: Code.OUT_OF_RANGE,
    423: Code.FAILED_PRECONDITION,
    424: Code.FAILED_PRECONDITION,
    425: Code.UNAVAILABLE,  # "too early", RFC 8470: the same once more, after the handshake
    428: Code.FAILED_PRECONDITION,
    429: Code.RESOURCE_EXHAUSTED,
    451: Code.PERMISSION_DENIED,
    499: Code.CANCELLED,  # nginx's "client closed request"
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
    505: Code.UNIMPLEMENTED,
    507: Code.RESOURCE_EXHAUSTED,
    511: Code.UNAUTHENTICATED,
    529: Code.UNAVAILABLE,  # not registered; several large services say "overloaded" with it
}
