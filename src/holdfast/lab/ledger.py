"""The proof of the demo: each order that a client has a receipt for is in the database, and only once."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.lab.scene import OrderCheck
from holdfast.lab.traffic import Receipt

BATCH = 500
"""Receipts looked up in one query; SQLite allows at least 999 parameters."""
BUSY_SECONDS = 5.0


class Ledger:
    """Reads the shop's orders, and nothing else. Its methods block; use one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, receipts: Sequence[Receipt], result: OrderCheck) -> None:
        """Look up each receipt and add what is found to ``result``."""
        with self._open() as database:
            for start in range(0, len(receipts), BATCH):
                batch = receipts[start : start + BATCH]
                marks = ",".join("?" * len(batch))
                query = (
                    f"SELECT reference, count(*), min(id) FROM orders WHERE reference IN ({marks}) GROUP BY reference"  # noqa: S608 - only question marks are put in
                )
                rows = database.execute(query, [receipt.reference for receipt in batch])
                found = {reference: (count, key) for reference, count, key in rows}
                for receipt in batch:
                    count, key = found.get(receipt.reference, (0, ""))
                    result.checked += 1
                    result.doubled += count > 1
                    result.missing += count == 0 or (count == 1 and key != receipt.id)

    def count(self, result: OrderCheck) -> None:
        """At the end: orders of the traffic that are there without a receipt, and any reference that is there twice."""
        with self._open() as database:
            query = "SELECT count(*), count(DISTINCT reference) FROM orders WHERE reference != ''"
            stored, distinct = database.execute(query).fetchone()
        result.doubled = max(result.doubled, stored - distinct)
        result.unreceipted = max(0, distinct - result.checked + result.missing)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(
            sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            yield database
