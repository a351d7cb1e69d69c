"""What a supervisor tells about its configuration: the answers to ``config`` and its kin on the control socket."""

from typing import Any

import msgspec

from holdfast.config.diff import Change
from holdfast.config.history import Entry


class WorkerConfig(msgspec.Struct, frozen=True):
    """What one worker has. ``version`` 0: it has not said yet. ``refusal``: why it does not have the current one.

    ``digest`` is its own, over the values as the app's types read them: two workers with the same one agree. It
    differs from the supervisor's where only the app's types know that something is secret.
    """

    slot: int
    pid: int
    generation: int
    state: str
    version: int = 0
    digest: str = ""
    refusal: str = ""


class ConfigStatus(msgspec.Struct, frozen=True):
    """The answer to ``config``. Nothing in it is secret.

    ``values`` is the document, redacted; ``origins`` says where each value came from, by its path as messages write it.
    ``at`` is Unix seconds. ``refused`` is what is wrong with the layers as they were last read; empty when they hold.
    ``tried`` is the change or the reload that is under way, ``waiting`` are the changes that wait for their turn: each
    says who and why. ``start`` says why the last good configuration is used, when that is so. ``trouble`` is that of
    the history's disk.
    """

    version: int
    digest: str
    at: float
    who: str
    why: str
    values: dict[str, Any]
    origins: dict[str, str]
    workers: tuple[WorkerConfig, ...]
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    state_directory: str = ""
    refused: tuple[str, ...] = ()
    tried: str = ""
    waiting: tuple[str, ...] = ()
    start: str = ""
    trouble: str = ""
    applied_count: int = 0
    refused_count: int = 0


class ConfigHistory(msgspec.Struct, frozen=True):
    """The answer to ``config-history``: the proposals that are kept, the oldest first. ``current`` is the version."""

    current: int
    entries: tuple[Entry, ...]
    trouble: str = ""


class ConfigApplied(msgspec.Struct, frozen=True):
    """The answer to ``config-apply`` and ``config-rollback``. Without ``changes`` everything was so already.

    ``total`` counts all changes, of which the first are told. ``generation`` is 0 unless a new one was needed.
    ``seconds`` is how long it took until every worker had it.
    """

    version: int
    digest: str
    changes: tuple[Change, ...]
    total: int
    generation: int
    seconds: float
