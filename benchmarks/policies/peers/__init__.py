"""The peers, each in its documented form: in memory, with its own defaults, wide enough to refuse nothing."""

from benchmarks.policies.contestant import Contestant
from benchmarks.policies.peers.breakers import Aiobreaker, Purgatory, Pybreaker
from benchmarks.policies.peers.hyx import Hyx
from benchmarks.policies.peers.interlock import Interlock
from benchmarks.policies.peers.limiters import Aiolimiter, Limits, PyrateLimiter, Throttled
from benchmarks.policies.peers.pyresilience import Pyresilience
from benchmarks.policies.peers.redress import Redress
from benchmarks.policies.peers.retries import Backoff, Stamina, Tenacity

PEERS: tuple[type[Contestant], ...] = (
    Pyresilience,
    Interlock,
    Redress,
    Pybreaker,
    Aiobreaker,
    Purgatory,
    Hyx,
    Tenacity,
    Stamina,
    Backoff,
    Limits,
    Throttled,
    Aiolimiter,
    PyrateLimiter,
)
