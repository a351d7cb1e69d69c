"""What a worker loads: each reload pays for it, while the worker that is to be replaced still has to answer.

Held by names, not by time: that is the same on every machine.
"""

import json
from collections.abc import Callable
from pathlib import Path

from e2e.harness import GATES, Running, request

Serve = Callable[..., Running]

OURS_LIMIT = 100
"""Modules of Holdfast in a worker that has answered a request for an ASGI app, with the default configuration. Each
costs 0.3 ms of CPU, and 1.4 ms where no bytecode is kept."""
UNUSED = frozenset(
    {
        "holdfast.cli",
        "holdfast.config.diff",
        "holdfast.config.layers",
        "holdfast.config.schema_json",
        "holdfast.config.typed",
        "holdfast.core.fuse",
        "holdfast.core.pipeline",
        "holdfast.core.policy",
        "holdfast.lab",
        "holdfast.resilience.adaptive",
        "holdfast.resilience.catalog",
        "holdfast.resilience.limits.algorithms",
        "holdfast.resilience.ratelimit",
        "holdfast.resilience.rates",
        "holdfast.server.admission.chosen",
        "holdfast.server.http.websocket",
        "holdfast.server.wsgi",
        "holdfast.service.marks",
        "holdfast.service.pipelines",
        "holdfast.service.routes",
        "holdfast.service.tables",
        "holdfast.supervisor.master",
        "holdfast.supervisor.process",
        "holdfast.telemetry.access",
        "importlib.metadata",
        "pydantic",
        "rich",
        "starlette",
        "tomllib",
        "websockets",
    }
)
"""What nobody has asked for, each with all that is inside of it."""


def modules(running: Running) -> frozenset[str]:
    return frozenset(json.loads(request(running.address)[2]))


def outer(name: str) -> set[str]:
    """The module, and those that it is in."""
    parts = name.split(".")
    return {".".join(parts[: length + 1]) for length in range(len(parts))}


def test_a_worker_loads_nothing_that_nobody_has_asked_for(serve: Serve) -> None:
    loaded = modules(serve("loaded", "--workers", "1"))
    assert "holdfast.server.http.protocol" in loaded
    assert sorted(name for name in loaded if outer(name) & UNUSED) == []
    assert len([name for name in loaded if "holdfast" in outer(name)]) <= OURS_LIMIT


def test_what_the_configuration_asks_for_is_loaded_before_the_first_request(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "holdfast.toml").write_text(f"[run]\naccess_log = true\n{GATES}")
    loaded = modules(serve("loaded", "--workers", "1"))
    assert loaded >= {
        "holdfast.resilience.bulkhead",
        "holdfast.resilience.breaker",
        "holdfast.resilience.limits.vegas",
        "holdfast.resilience.ratelimit",
        "holdfast.service.pipelines",
        "holdfast.telemetry.access",
    }


def test_a_module_of_the_app_that_is_called_like_one_of_the_standard_librarys_does_no_harm(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "resource.py").write_text("raise RuntimeError('this is about REST')")
    running = serve("loaded", "--workers", "1")
    assert "holdfast.server.http.protocol" in modules(running)
    assert running.reload()["ok"]
    assert "exited" not in running.log
