"""Every way to call a function under a pipeline."""

from collections.abc import Callable
from typing import Any

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline


class Runner:
    """Runs a function under a pipeline in each of the forms that there are."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.clock = VirtualClock(start=100.0)

    def __call__(self, pipeline: Pipeline, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        if self.form == "decorated":
            return pipeline(fn)(*args, **kwargs)
        if self.form == "call":
            return pipeline.call(fn, *args, **kwargs)
        if self.form == "bound":
            return pipeline.bind(key="k")(fn)(*args, **kwargs)
        if self.form == "replaced":
            decorated = pipeline(fn)
            pipeline.compile()
            return decorated(*args, **kwargs)
        if self.form == "decorated async":
            return self.clock.run(pipeline(awaited)(*args, **kwargs))
        if self.form == "replaced async":
            decorated_async = pipeline(awaited)
            pipeline.compile()
            return self.clock.run(decorated_async(*args, **kwargs))
        if self.form == "bound async":
            return self.clock.run(pipeline.bind(key="k")(awaited)(*args, **kwargs))
        return self.clock.run(pipeline.acall(awaited, *args, **kwargs))


FORMS = [
    *("decorated", "call", "bound", "replaced"),
    *("decorated async", "acall", "bound async", "replaced async"),
]
