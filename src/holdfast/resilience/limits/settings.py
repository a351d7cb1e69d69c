"""The settings of ``AdaptiveLimit``, apart from it: the server reads them whether there is one or not."""

from collections.abc import Callable
from typing import Annotated, Literal

from holdfast.core.duration import Duration
from holdfast.core.settings import FUNCTION, GateSettings, Seconds, about
from holdfast.resilience.limits.queue_delay import TARGET


class AdaptiveLimitSettings(GateSettings, frozen=True):
    """Settings of ``AdaptiveLimit``."""

    algorithm: Annotated[
        Literal["queue_delay", "gradient2", "vegas", "aimd", "envoy", "bbr", "go_zero"],
        about("What finds the limit."),
    ] = "queue_delay"
    target: Annotated[
        Seconds, about("How long the most important calls may queue; less important ones a share of it.", gt=0)
    ] = Duration(TARGET)
    initial: Annotated[int, about("The limit before anything is known.", ge=1)] = 20
    minimum: Annotated[int, about("The limit is never below this.", ge=1)] = 1
    maximum: Annotated[int, about("The limit is never above this.", ge=1)] = 1000
    priorities: Annotated[
        bool, about("Refuse the least critical calls first, and the same users; else whoever meets the limit.")
    ] = True
    window: Annotated[Seconds, about("The limit moves at most this often.", gt=0)] = Duration(0.1)
    salt: Annotated[str, about("Change it, and other users are refused first.")] = ""
    cpu: Annotated[
        Callable[[], float] | None,
        about(
            "CPU seconds that the process has used; for bbr and go_zero. By default time.process_time.", reader=FUNCTION
        ),
    ] = None

    def check(self) -> None:
        if self.minimum > self.maximum:
            raise self.wrong("minimum", f"at most maximum, which is {self.maximum}")
