"""Cache: remembers results, and serves old ones while new ones are fetched or cannot be had."""

import asyncio
import random as system
from collections.abc import Awaitable, Callable, Hashable
from math import inf
from typing import Annotated, Any, ClassVar, Final

from holdfast.core.call import FAILED, OK, AsyncHandler, Call, Handler
from holdfast.core.context import current, reset_deadline, set_deadline
from holdfast.core.duration import Duration
from holdfast.core.errors import CallCancelled, DeadlineExceeded, Rejected
from holdfast.core.event import Event
from holdfast.core.policy import Policy, accepts
from holdfast.core.settings import Errors, PolicySettings, Seconds, about
from holdfast.resilience.retrying.backoff import CHANCE, Chance
from holdfast.resilience.sharing.flights import Flight, Flights
from holdfast.resilience.sharing.keys import KEY, KeyFunction, keyed_by, keys_of, keys_of_call, unhashable
from holdfast.resilience.sharing.places import Places
from holdfast.resilience.sharing.sieve import Sieve, Slot, Source
from holdfast.resilience.sharing.threadflights import BUSY, ThreadFlight, ThreadFlights
from holdfast.resilience.sharing.twin import twin

_NO_ANSWERS: Final = (Rejected, CallCancelled)


class CacheSettings(PolicySettings, frozen=True):
    """Settings of ``Cache``."""

    ttl: Annotated[Seconds, about("How long a result is fresh.", gt=0)] = Duration(60.0)
    entries: Annotated[int, about("Results that are kept; past it, those go that are asked for least.", ge=1)] = 10_000
    stale: Annotated[
        Seconds,
        about("How long after that it is still served while one refresh is under way (stale-while-revalidate)."),
    ] = Duration(0.0)
    stale_if_error: Annotated[
        Seconds, about("How long after that it is still served when the dependency fails or is refused.")
    ] = Duration(0.0)
    pause: Annotated[
        Seconds, about("How long an old result is served without asking again, after asking has failed.")
    ] = Duration(1.0)
    refreshes: Annotated[int, about("Refreshes in the background at the same time; the others wait.", ge=1)] = 16
    refresh_timeout: Annotated[Seconds, about("How long one refresh may take.", gt=0)] = Duration(30.0)
    negative: Annotated[Errors, about("Exceptions that are remembered as results are.")] = ()
    negative_ttl: Annotated[Seconds, about("How long such an exception is remembered.", gt=0)] = Duration(1.0)
    jitter: Annotated[
        float, about("Each result is fresh for up to this share less, so that not all go at once.", ge=0, lt=1)
    ] = 0.1
    key: Annotated[
        KeyFunction | None,
        about("What makes two calls the same; by default the function and its arguments.", reader=KEY),
    ] = None
    random: Annotated[system.Random | Chance | None, about("Where the jitter comes from.", reader=CHANCE)] = None

    def check(self) -> None:
        assert isinstance(self.negative, tuple)
        if not all(issubclass(error, Exception) for error in self.negative):
            raise self.wrong("negative", "exceptions that are an Exception", "a cancellation is never remembered")


class StaleKept(Event, frozen=True):
    """A new result could not be had because of ``error``; the old one, ``age`` seconds old, is served on."""

    policy: str
    operation: str
    error: str
    age: float


class Entry(Slot):
    """A result, or an exception, and how long it is good for. ``quiet_until``: not to be asked for before."""

    __slots__ = ("error", "fresh_until", "made", "quiet_until", "stale_until", "value")

    def __init__(self, key: Hashable, made: float) -> None:
        super().__init__(key)
        self.made = made
        self.value: Any = None
        self.error: BaseException | None = None
        self.fresh_until = -inf
        self.stale_until = -inf
        self.quiet_until = -inf


class Cache(Policy[CacheSettings]):
    """Remembers results for ``ttl``. A call whose result is remembered does not go further in.

    Calls that miss the same key at the same time share one execution, as in ``SingleFlight``. What is remembered
    is bounded by SIEVE (``resilience.sharing.sieve``). Only results that the dependency itself gave and that are no
    failure (``call.verdict`` OK) are kept, and nothing that was asked for before an ``invalidate``.

    Old results, after RFC 5861: for ``stale`` seconds they are served at once while one refresh is under way. In
    tasks it runs in the background, in a task that this policy owns, at most ``refreshes`` of them, each cancelled
    after ``refresh_timeout``; in threads the caller who finds the result old refreshes it, within its own deadline
    too. For ``stale_if_error`` seconds they are served when the new one cannot be had: the dependency fails, is
    refused by a policy further in, or is too slow. When it answers with an exception that is no failure of its
    own (a customer who is not there any more), the old result is dropped.

    All callers get the same object. Exceptions in ``negative`` are remembered too, if they can be copied and are no
    refusal (``Rejected``, ``CallCancelled``): that is nothing the dependency has said. A hit
    leaves ``call.verdict`` IGNORED, since nobody was asked; an old result served for a failure leaves it FAILED.
    ``TypeError`` when a key is not hashable; a key of None is not remembered. Safe from any thread.
    """

    kind: ClassVar[str] = "cache"

    @accepts(CacheSettings)
    def __init__(self, settings: CacheSettings) -> None:
        self.hits = 0
        self.misses = 0
        self.loads = 0
        self.failures = 0
        self.served_stale = 0
        self.kept_stale = 0
        self.refreshes = 0
        self._places = Places(settings.refreshes)
        self._sieve: Sieve[Entry] = Sieve(settings.entries)
        self._flights = Flights()
        self._thread_flights = ThreadFlights()
        super().__init__(settings)

    def apply(self, settings: CacheSettings) -> None:
        self._ttl = settings.ttl
        self._stale = settings.stale
        self._useful = max(settings.stale, settings.stale_if_error)
        self._pause = settings.pause
        self._places.limit = settings.refreshes
        self._refresh_timeout = settings.refresh_timeout
        self._negative = settings.negative
        self._negative_ttl = settings.negative_ttl
        self._jitter = settings.jitter
        self._key_of = keyed_by(settings.key)
        self._plain = settings.key is None
        assert not isinstance(settings.random, system.Random)
        self._chance: Chance = settings.random or system.random

    def replace_settings(self, settings: CacheSettings) -> None:
        """As ``update``, with all settings at once. Results that are there keep the times they were given."""
        with self._changing:  # of two at the same time, the one whose settings stay has the last word here too
            super().replace_settings(settings)
            gone = self._sieve.bound(settings.entries)
        del gone  # outside: what was remembered may have finalizers

    def invalidate(self, key: Hashable) -> bool:
        """Forget what is remembered for ``key``; what is being fetched for it now will not be remembered either.

        ``key`` is what the setting ``key`` makes. True when there was something. Safe from any thread.
        """
        return self._invalidate(keys_of(key))

    def invalidate_call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bool:
        """As ``invalidate``, for the key that a call of ``fn`` with these arguments has by default."""
        return self._invalidate(keys_of_call(fn, args, kwargs))

    def clear(self) -> None:
        """Forget everything, also what is being fetched now. Safe from any thread."""
        self._flights.forget_all()
        self._thread_flights.forget_all()
        self._sieve.clear()

    def snapshot(self) -> dict[str, Any]:
        return {
            "entries": len(self._sieve.entries),
            "hits": self.hits,
            "misses": self.misses,
            "loads": self.loads,
            "failures": self.failures,
            "served_stale": self.served_stale,
            "kept_stale": self.kept_stale,
            "refreshes": self.refreshes,
            "refreshing": self._places.taken,
            "evicted": self._sieve.evicted,
        }

    def wrap(self, inner: Handler) -> Handler:
        find, key_of, plain = self._sieve.entries.get, self._key_of, self._plain

        def run(call: Call) -> Any:
            try:
                # The commonest of the keys that key_of makes, without the call.
                if plain and not call.kwargs and not (current().colour if call.colour is None else call.colour):
                    key: Hashable = (call.fn, call.args)
                else:
                    key = key_of(call)
                entry = find(key)
            except TypeError as error:
                raise unhashable(self.name, call, error) from error
            if entry is not None and call.now < entry.fresh_until:
                self.hits += 1
                entry.visited = True
                return entry.value
            return self._miss(call, key, entry, inner)

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        find, key_of, plain = self._sieve.entries.get, self._key_of, self._plain

        async def run(call: Call) -> Any:
            try:
                # The commonest of the keys that key_of makes, without the call.
                if plain and not call.kwargs and not (current().colour if call.colour is None else call.colour):
                    key: Hashable = (call.fn, call.args)
                else:
                    key = key_of(call)
                entry = find(key)
            except TypeError as error:
                raise unhashable(self.name, call, error) from error
            if entry is not None and call.now < entry.fresh_until:
                self.hits += 1
                entry.visited = True
                return entry.value
            return await self._miss_async(call, key, entry, inner)

        return run

    def _miss(self, call: Call, key: Hashable, entry: Entry | None, inner: Handler) -> Any:
        if key is None:
            return inner(call)

        def load(call: Call, flight: ThreadFlight) -> Any:
            if (fresh := self._begun(call, key)) is not None:
                return fresh.value
            try:
                result = inner(call)
            except Exception as error:  # any failure can be one that an old result stands in for
                if (old := self._failed(call, key, error, flight)) is None:
                    raise
                return old.value
            return self._succeeded(call, key, result, flight)

        if entry is not None and self._is_served(call, entry):
            if call.now >= entry.quiet_until and self._places.take():
                try:
                    outcome = self._thread_flights.lead(call, key, self._limited(load))
                finally:
                    self._places.give_back()
                if outcome is not BUSY:
                    return outcome
            return self._serve(entry)
        self.misses += 1
        try:
            return self._thread_flights.join(call, key, self._thread_flights.find(key), load, self.name)
        except DeadlineExceeded as error:
            if (old := self._old(call, key, error)) is None:
                raise
            return old.value

    async def _miss_async(self, call: Call, key: Hashable, entry: Entry | None, inner: AsyncHandler) -> Any:
        if key is None:
            return await inner(call)

        async def load(call: Call, flight: Flight) -> Any:
            if (fresh := self._begun(call, key)) is not None:
                return fresh.value
            try:
                result = await inner(call)
            except Exception as error:  # any failure can be one that an old result stands in for
                if (old := self._failed(call, key, error, flight)) is None:
                    raise
                return old.value
            except asyncio.CancelledError as error:
                if call.verdict is FAILED:  # its time was up; that a caller gave up says nothing
                    self._failed(call, key, error, flight)
                raise
            return self._succeeded(call, key, result, flight)

        if entry is not None and self._is_served(call, entry):
            if call.now >= entry.quiet_until and self._places.take():
                self._start(call, key, load)
            return self._serve(entry)
        self.misses += 1
        try:
            return await self._flights.join(call, key, load, self.name)
        except DeadlineExceeded as error:
            if (old := self._old(call, key, error)) is None:
                raise
            return old.value

    def _is_served(self, call: Call, entry: Entry) -> bool:
        """Whether ``entry``, which is not fresh, is served without waiting. Raises the exception that it is."""
        if entry.error is None:
            return call.now < entry.stale_until or call.now < entry.quiet_until
        if call.now >= entry.until:
            return False
        self.hits += 1
        entry.visited = True
        raise twin(entry.error) or entry.error

    def _serve(self, entry: Entry) -> Any:
        self.served_stale += 1
        entry.visited = True
        return entry.value

    def _start(self, call: Call, key: Hashable, load: Callable[[Call, Flight], Awaitable[Any]]) -> None:
        """Refresh in the background, in the place that was taken, unless somebody is at it."""
        try:
            task = self._flights.start(call, key, load, self.name, call.now + self._refresh_timeout)
        except BaseException:  # a task factory of the user's
            self._places.give_back()
            raise
        if task is None:
            self._places.give_back()
        else:
            self.refreshes += 1
            self._places.keep_for(task)

    def _limited(self, load: Callable[[Call, ThreadFlight], Any]) -> Callable[[Call, ThreadFlight], Any]:
        """``load``, with the deadline of a refresh."""

        def refresh(call: Call, flight: ThreadFlight) -> Any:
            self.refreshes += 1
            before = call.deadline
            call.deadline = min(before, call.now + self._refresh_timeout)
            token = set_deadline(call.deadline)
            try:
                return load(call, flight)
            finally:
                reset_deadline(token)
                call.deadline = before

        return refresh

    def _begun(self, call: Call, key: Hashable) -> Entry | None:
        """Count a load; or the entry that somebody else has just made, which makes it needless."""
        entry = self._sieve.entries.get(key)
        if entry is not None and call.now < entry.fresh_until:
            return entry
        self.loads += 1
        return None

    def _succeeded(self, call: Call, key: Hashable, result: Any, flight: Source) -> Any:
        """Remember ``result``; what to return."""
        if call.verdict is FAILED:
            self.failures += 1
            old = self._old(call, key, None)
            return result if old is None else old.value
        if call.verdict is OK:
            now = call.clock.now()
            entry = Entry(key, now)
            entry.value = result
            entry.fresh_until = now + self._ttl * (1 - self._jitter * self._chance())
            entry.stale_until = entry.fresh_until + self._stale
            entry.until = entry.fresh_until + self._useful
            self._sieve.put(entry, now, flight)
        return result

    def _failed(self, call: Call, key: Hashable, error: BaseException, flight: Source) -> Entry | None:
        """What stands in for ``error``, which may be remembered itself."""
        self.failures += 1
        if call.verdict is not OK:
            old = self._old(call, key, error)
            if old is not None:
                return old
        elif not flight.forgotten:
            self._sieve.drop(key)
        if (
            isinstance(error, self._negative)
            and not isinstance(error, _NO_ANSWERS)
            and (kept := twin(error)) is not None
        ):
            # Its cause and context would keep frames, and all that they hold, for as long as it is remembered.
            kept.__cause__ = kept.__context__ = None
            now = call.clock.now()
            entry = Entry(key, now)
            entry.error = kept
            entry.until = now + self._negative_ttl
            self._sieve.put(entry, now, flight)
        return None

    def _old(self, call: Call, key: Hashable, error: BaseException | None) -> Entry | None:
        """The old result that may be served because there is no new one; nobody is asked again for a pause."""
        entry = self._sieve.entries.get(key)
        now = call.clock.now()
        if entry is None or entry.error is not None or now >= entry.until:
            return None
        self.kept_stale += 1
        entry.visited = True
        entry.quiet_until = min(now + self._pause, entry.until)
        if self.listeners.active:
            at, age = call.clock.wall(), now - entry.made
            # The text is made in there: an exception may fail to say what it is.
            self.listeners.emit(lambda: StaleKept(at, self.name, call.operation, _why(error), age))
        return entry

    def _invalidate(self, keys: tuple[Hashable, ...]) -> bool:
        gone = []
        for key in keys:
            self._flights.forget(key)
            self._thread_flights.forget(key)
            gone.append(self._sieve.drop(key) is not None)
        return any(gone)


def _why(error: BaseException | None) -> str:
    if error is None:
        return "the result is a failure"
    return "it took too long" if isinstance(error, asyncio.CancelledError) else f"{type(error).__name__}: {error}"
