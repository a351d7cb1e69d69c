"""Streams of work with a bound: so many calls at once, so many items in memory, and no task left behind."""

from holdfast.flow.batches import batch
from holdfast.flow.broadcast import Broadcast, FellBehind
from holdfast.flow.concurrent import map_concurrent
from holdfast.flow.fanin import merge
from holdfast.flow.outcome import Outcome
from holdfast.flow.pool import WorkerPool

__all__ = ["map_concurrent", "merge", "batch", "Broadcast", "FellBehind", "WorkerPool", "Outcome"]
