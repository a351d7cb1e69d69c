"""SQLite that never blocks the event loop: one connection, in one thread, for each worker."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a writer waits for another worker's transaction."""


class Database:
    """A connection that lives in a thread of its own. Calls queue up; each is one transaction."""

    def __init__(self, thread: ThreadPoolExecutor, connection: sqlite3.Connection) -> None:
        self._thread = thread
        self._connection = connection

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work(connection)`` as one transaction, rolled back when it raises; its result.

        It is on disk when this returns. A cancelled caller does not cancel a transaction that has begun.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def read(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The rows of a query, as dictionaries."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._fetch, query, parameters)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        # IMMEDIATE: wait for the other workers here, rather than fail half way when a read turns into a write.
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _fetch(self, query: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(query, parameters)]


@asynccontextmanager
async def open_database(path: Path, schema: str) -> AsyncIterator[Database]:
    """Open the file, make what the schema wants, and close everything at the end."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite") as thread:
        connection = await loop.run_in_executor(thread, _connect, path, schema)
        try:
            yield Database(thread, connection)
        finally:
            await loop.run_in_executor(thread, connection.close)


def _connect(path: Path, schema: str) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    connection.row_factory = sqlite3.Row
    # WAL: readers and the writer of different processes do not wait for each other. NORMAL: a commit survives the
    # death of the process, and only a loss of power may take the last ones back.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(schema)
    return connection
