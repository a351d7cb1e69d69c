"""What lives as long as the service: an engine, a pool, a background task."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Component(Protocol):
    """Started once, stopped once, both from the same event loop."""

    @property
    def name(self) -> str:
        """What logs and reports call it."""

    async def start(self) -> None:
        """Return when it works. Raises when it cannot, and then holds nothing that needs ``stop``.

        A cancellation leaves nothing behind either.
        """

    async def stop(self) -> None:
        """Return when everything it held is given back. Before ``start`` or a second time it does nothing."""
