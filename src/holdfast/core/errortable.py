"""Which ``Failure`` an exception is: ``ErrorTable``, by class.

An exception that the table does not know is INTERNAL, and its text is not told: it may hold anything. On purpose it
does not know errors that look like the client's and are the service's own. ``PermissionError`` is about the server's
disk, ``KeyError`` and ``ValueError`` as a rule about its code. ``NotImplementedError`` is an abstract method that
somebody called; a 501 might stay in caches beyond the deploy that mends it (RFC 9110, section 15.1).
"""

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from holdfast.core.classname import find_loaded, import_class
from holdfast.core.codes import Code
from holdfast.core.errorrule import ErrorRule, read_rules, rule_of
from holdfast.core.errors import (
    BootError,
    BulkheadFull,
    CallCancelled,
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    Draining,
    FaultInjected,
    HoldfastError,
    Overloaded,
    RateLimited,
    Rejected,
)
from holdfast.core.failure import Failure, ServiceError

Rule: TypeAlias = ErrorRule | Callable[[Any], Any]
Classes: TypeAlias = dict[type[BaseException], Rule]

CACHE_LIMIT: Final = 1024
"""Classes of exceptions whose rules are remembered; some libraries make classes on the way."""
MEMBERS_LIMIT: Final = 1000
"""Members of an exception group, groups in it included, that are looked at."""

WORST: Final = (
    Code.DATA_LOSS,
    Code.INTERNAL,
    Code.UNKNOWN,
    Code.UNIMPLEMENTED,
    Code.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
    Code.INVALID_ARGUMENT,
    Code.OUT_OF_RANGE,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
    Code.ABORTED,
    Code.RESOURCE_EXHAUSTED,
    Code.CANCELLED,
)
"""Which member speaks for an exception group: the service's faults before the client's, and in each what does not pass
by itself before what does. CANCELLED is last: those members were cancelled because of another one."""

_SEVERITY: Final = {code: -place for place, code in enumerate(WORST)}

# Texts of refusals name policies and upstreams, which are nobody's business outside: each has a sentence of its own.
DEFAULTS: Final[dict[type[BaseException], ErrorRule]] = {
    HoldfastError: ErrorRule(Code.INTERNAL),
    ConfigError: ErrorRule(Code.INTERNAL),
    BootError: ErrorRule(Code.UNAVAILABLE),
    FaultInjected: ErrorRule(Code.INTERNAL, reason="FAULT_INJECTED"),
    CallCancelled: ErrorRule(Code.CANCELLED),
    Rejected: ErrorRule(Code.UNAVAILABLE, reason="REJECTED"),
    Draining: ErrorRule(
        Code.UNAVAILABLE, reason="DRAINING", message="This process is going away. Try again: another one answers."
    ),
    DeadlineExceeded: ErrorRule(Code.DEADLINE_EXCEEDED),
    CircuitOpen: ErrorRule(
        Code.UNAVAILABLE, reason="CIRCUIT_OPEN", message="Something that this needs is down. Try again later."
    ),
    RateLimited: ErrorRule(
        Code.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", message="Too many requests in too short a time."
    ),
    BulkheadFull: ErrorRule(
        Code.UNAVAILABLE, reason="BULKHEAD_FULL", message="Too many requests at the same time. Try again later."
    ),
    Overloaded: ErrorRule(
        Code.UNAVAILABLE, reason="OVERLOADED", message="There is more to do than can be done. Try again later."
    ),
    TimeoutError: ErrorRule(Code.DEADLINE_EXCEEDED),
    CancelledError: ErrorRule(Code.CANCELLED),
}
"""What holds without any rule of the app's; each may be replaced. ``ServiceError`` and groups are built in besides."""

_UNKNOWN: Final = ErrorRule(Code.INTERNAL)
_INTERNAL: Final = Failure(Code.INTERNAL)

logger: Final = logging.getLogger(__name__)


class ErrorTable:
    """Makes a ``Failure`` of any exception: the rule of the nearest class in its MRO counts.

    ``rules`` maps classes, or their names such as ``"shop.errors:OutOfStock"``, to what they mean:

    - a code, or its name: ``"failed_precondition"``;
    - an HTTP status from 400 to 599;
    - an ``ErrorRule``, or a table of its fields: ``{"code": "not_found", "reason": "NO_ORDER", "tell": True}``;
    - a function of the exception, which returns one of these or a ``Failure``, or None for the next class's rule.

    A rule without a reason takes one from the name of its class: ``OutOfStockError`` is OUT_OF_STOCK. A rule for a kind
    of ``ServiceError`` changes its code and status; what the app says in it, its reason too, is told all the same. A
    group is what its worst member is, unless there is a rule for its class. Causes and contexts are not looked at.

    A name is looked up when an exception meets the table, among the modules that are loaded: nothing is imported then.
    ``resolve`` imports them. Raises ``ConfigError`` for the first mistake in ``rules``; ``source`` is the place that
    it names. Threads may share a table.
    """

    def __init__(self, rules: Mapping[Any, Any] | None = None, *, source: str = "[errors]") -> None:
        read, mistakes = read_rules(rules or {}, source)
        if mistakes:
            raise mistakes[0]
        self.source = source
        self._group: Rule = self._worst_of
        self._rules: Classes = {**DEFAULTS, ServiceError: _of_service, BaseExceptionGroup: self._group}
        self._waiting: dict[str, Rule] = {}
        self._cache: dict[type[BaseException], tuple[Rule, ...]] = {}
        for name, rule in read.items():
            if isinstance(name, str):
                self._waiting[name] = rule
            else:
                self._rules[name] = rule

    def failure_of(self, error: BaseException) -> Failure:
        """What is told of ``error``. Raises no ``Exception``: when a rule does, it is logged, and this INTERNAL."""
        try:
            return self._failure(error)
        except Exception:
            # Rules, an exception's __str__ and its details are the app's own code, and this is where errors end.
            logger.exception("the rule for a %s failed", type(error).__qualname__)
            return _INTERNAL

    def plain_rule(self, kind: type[BaseException]) -> ErrorRule | None:
        """The rule for all errors of ``kind``; None when an error's own words or attributes count too."""
        rule = self._rules_of(kind)[:1]
        plain = rule and isinstance(rule[0], ErrorRule) and not rule[0].tell and not issubclass(kind, ServiceError)
        return rule[0] if plain and isinstance(rule[0], ErrorRule) else None

    def resolve(self) -> None:
        """Imports the classes that are given by name. Raises ``ConfigError`` for the first that there is not."""
        mistakes = self.mistakes()
        if mistakes:
            raise mistakes[0]

    def mistakes(self) -> list[ConfigError]:
        """Imports the classes that are given by name; a ``ConfigError`` for each that there is not."""
        mistakes = []
        for name in list(self._waiting):
            try:
                self._take(name, import_class(name, self.source))
            except ConfigError as mistake:
                mistakes.append(mistake)
        return mistakes

    def _failure(self, error: BaseException) -> Failure:
        for rule in self._rules_of(type(error)):
            if isinstance(rule, ErrorRule):
                return _told(rule, error)
            answer = rule(error)
            if isinstance(answer, Failure):
                return answer
            if answer is not None:
                return _told(rule_of(answer, type(error).__name__), error)
        return _told(_UNKNOWN, error)

    def _rules_of(self, kind: type[BaseException]) -> tuple[Rule, ...]:
        for name in list(self._waiting) if self._waiting else ():
            # An exception of a class that is known by name only can be there as soon as its module is.
            found = find_loaded(name)
            if found is not None:
                self._take(name, found)
        cache = self._cache  # before the rules are read: what is found by old ones goes into the old cache
        known = cache.get(kind)
        if known is None:
            known = tuple(_nearest(kind, self._rules))
            if len(cache) >= CACHE_LIMIT:
                cache.clear()
            cache[kind] = known
        return known

    def _take(self, name: str, kind: type[BaseException]) -> None:
        # Without a lock, since each step is one step for other threads, and rules only become more.
        rule = self._waiting.get(name)
        if rule is not None:
            self._rules[kind] = rule
            self._cache = {}
            self._waiting.pop(name, None)

    def _worst_of(self, group: BaseExceptionGroup[BaseException]) -> Failure:
        worst: Failure | None = None
        waiting: list[BaseException] = list(group.exceptions)
        for _ in range(MEMBERS_LIMIT):
            if not waiting:
                break
            error = waiting.pop()
            if isinstance(error, BaseExceptionGroup) and self._rules_of(type(error))[0] is self._group:
                waiting += error.exceptions
                continue
            failure = self._failure(error)
            # From the last to the first, which speaks for all that are like it.
            if worst is None or _weight(failure) >= _weight(worst):
                worst = failure
        return worst if worst is not None and not waiting else _INTERNAL


def _nearest(kind: type[BaseException], rules: Classes) -> Iterator[Rule]:
    for parent in kind.__mro__:
        rule = rules.get(parent)
        if rule is not None:
            yield rule
            if isinstance(rule, ErrorRule):  # what lies behind a function counts when it returns None
                return


def _told(rule: ErrorRule, error: BaseException) -> Failure:
    if isinstance(error, ServiceError):
        return Failure(
            rule.code,
            error.reason or rule.reason,
            error.message or rule.message,
            error.retry_after,
            error.details or {},
            rule.status,
        )
    retry_after = error.retry_after if isinstance(error, Rejected) else None
    message = (str(error) if rule.tell else "") or rule.message
    return Failure(rule.code, rule.reason, message, retry_after, {}, rule.status)


def _of_service(error: ServiceError) -> Failure:
    return error.failure


def _weight(failure: Failure) -> tuple[int, float]:
    return _SEVERITY[failure.code], failure.retry_after or 0.0
