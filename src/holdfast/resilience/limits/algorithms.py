"""All of them, by the names that settings give. Apart from the settings, which are read where no limit is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from holdfast.resilience.limits.aimd import Aimd
from holdfast.resilience.limits.bbr import Bbr
from holdfast.resilience.limits.envoy import Envoy
from holdfast.resilience.limits.gradient2 import Gradient2
from holdfast.resilience.limits.queue_delay import QueueDelay
from holdfast.resilience.limits.sample import Limit, Sample
from holdfast.resilience.limits.vegas import Vegas

__all__ = ["Aimd", "Bbr", "Envoy", "Gradient2", "LIMITS", "Limit", "Making", "QueueDelay", "Sample", "Vegas"]


class Making(Protocol):
    """Makes an algorithm from what all of them take."""

    def __call__(self, *, initial: float, minimum: float, maximum: float) -> Limit: ...


LIMITS: Final[Mapping[str, Making]] = MappingProxyType(
    {
        "queue_delay": QueueDelay,
        "gradient2": Gradient2,
        "vegas": Vegas,
        "aimd": Aimd,
        "envoy": Envoy,
        "bbr": Bbr,
        "go_zero": Bbr.go_zero,
    }
)
"""Every algorithm by the name that settings give it."""
