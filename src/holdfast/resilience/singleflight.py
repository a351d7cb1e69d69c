"""SingleFlight: callers who ask for the same thing at the same time share one execution."""

from collections.abc import Callable, Hashable
from typing import Annotated, Any, ClassVar

from holdfast.core.call import AsyncHandler, Call, Handler
from holdfast.core.policy import Policy, accepts
from holdfast.core.settings import PolicySettings, about
from holdfast.resilience.sharing.flights import Flight, Flights
from holdfast.resilience.sharing.keys import KEY, KeyFunction, keyed_by, keys_of, keys_of_call, unhashable
from holdfast.resilience.sharing.threadflights import ThreadFlight, ThreadFlights


class SingleFlightSettings(PolicySettings, frozen=True):
    """Settings of ``SingleFlight``."""

    key: Annotated[
        KeyFunction | None,
        about("What makes two calls the same; by default the function and its arguments.", reader=KEY),
    ] = None


class SingleFlight(Policy[SingleFlightSettings]):
    """Calls with the same key that are under way at the same time share one execution and its outcome.

    After Go's ``singleflight``. Tasks share inside of their event loop, threads with all threads; a task and a
    thread never share.

    In tasks the execution has a task of its own. It goes on while anybody waits: a cancelled caller leaves at
    once, and when the last one has left it is cancelled. It has the context of the call that began it, but
    nobody's deadline: each caller waits until its own, then raises ``DeadlineExceeded``. In threads the first
    caller runs it, with its own deadline; if that fails it, or the caller is interrupted, one of the others
    begins again. A call with a higher criticality than the execution under way begins another, which may serve
    all; traffic of an experiment shares only with its own kind.

    An execution that asks for what it makes itself, also through others that ask for each other, runs that call
    unshared: nobody waits for itself.

    All get the same result object. An exception is raised in each as an object of its own, where its class can
    be copied. ``call.verdict`` is that of the execution, for each of them. A key of None is not shared.
    ``TypeError`` when a key is not hashable. Safe from any thread.
    """

    kind: ClassVar[str] = "single_flight"

    @accepts(SingleFlightSettings)
    def __init__(self, settings: SingleFlightSettings) -> None:
        self._flights = Flights()
        self._thread_flights = ThreadFlights()
        super().__init__(settings)

    def apply(self, settings: SingleFlightSettings) -> None:
        self._key_of = keyed_by(settings.key)

    def forget(self, key: Hashable) -> bool:
        """Let later calls for ``key`` begin anew, although an execution is under way; those that wait go on waiting.

        True if there was one. Safe from any thread.
        """
        return self._forget(keys_of(key))

    def forget_call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bool:
        """As ``forget``, for the key that a call of ``fn`` with these arguments has by default."""
        return self._forget(keys_of_call(fn, args, kwargs))

    def snapshot(self) -> dict[str, Any]:
        tasks, threads = self._flights, self._thread_flights
        return {
            "executions": tasks.led + threads.led,
            "shared": tasks.joined + threads.joined,
            "abandoned": tasks.abandoned,
            "under_way": tasks.under_way + threads.under_way,
        }

    def wrap(self, inner: Handler) -> Handler:
        key_of, find, join = self._key_of, self._thread_flights.find, self._thread_flights.join

        def work(call: Call, flight: ThreadFlight) -> Any:
            return inner(call)

        def run(call: Call) -> Any:
            try:
                key = key_of(call)
                found = find(key)
            except TypeError as error:
                raise unhashable(self.name, call, error) from error
            return inner(call) if key is None else join(call, key, found, work, self.name)

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        key_of, join = self._key_of, self._flights.join

        async def work(call: Call, flight: Flight) -> Any:
            return await inner(call)

        async def run(call: Call) -> Any:
            try:
                key = key_of(call)
                hash(key)
            except TypeError as error:
                raise unhashable(self.name, call, error) from error
            return await (inner(call) if key is None else join(call, key, work, self.name))

        return run

    def _forget(self, keys: tuple[Hashable, ...]) -> bool:
        found = [forget(key) for key in keys for forget in (self._flights.forget, self._thread_flights.forget)]
        return any(found)
