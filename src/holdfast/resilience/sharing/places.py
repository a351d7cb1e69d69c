"""Places for work in the background: how much of it may run at the same time, and who runs it."""

import asyncio


class Places:
    """At most ``limit`` tasks, or threads, at work at the same time. Safe from any thread; see docs/adr/0002.

    Holds its tasks, so that they are not collected before they have ended.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self) -> bool:
        """Take a place; false when there is none."""
        if self.taken >= self.limit:
            for task in tuple(self._tasks):
                if task.get_loop().is_closed():  # what a closed loop leaves behind never ends
                    self._leave(task)
        if self.taken < self.limit:
            self.taken += 1
            return True
        return False

    def give_back(self) -> None:
        """Leave a place that was taken."""
        self.taken -= 1

    def keep_for(self, task: "asyncio.Task[None]") -> None:
        """Leave a place that was taken when ``task`` ends."""
        self._tasks.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, task: "asyncio.Task[None]") -> None:
        try:
            self._tasks.remove(task)
        except KeyError:
            return  # another thread saw that its loop is closed
        self.taken -= 1
