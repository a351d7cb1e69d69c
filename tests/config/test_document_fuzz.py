"""Whole documents of anything: read, or refused with what is wrong. Never another error, and never for long."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.config.document import Document
from holdfast.config.layers import from_file
from holdfast.config.mistakes import ConfigErrors
from holdfast.core.errors import ConfigError
from holdfast.supervisor.configuration import make_schema

SCHEMA = make_schema()
LONG = 20.0
"""Seconds: far more than any document takes on a busy machine."""
GOOD = """
[run]
app = "shop:app"
workers = 2
bind = ["127.0.0.1:0"]
[admission]
trusted_proxies = ["10.0.0.0/8", "unix"]
concurrency = { target = "20ms" }
clients = { rate = "5/s", burst = 4 }
[[routes]]
match = "POST /orders/{id}"
headers = { "x-version" = "2" }
rate_limit = { rate = "50/s", key = "header:x-tenant" }
policies = [{ bulkhead = 3 }, "breaker", { timeout = "2s" }]
[errors]
"shop:OutOfStock" = { code = "failed_precondition", status = 409 }
[pipelines]
ship = [{ timeout = "2s" }, { retry = { attempts = 3 } }, "breaker"]
[settings]
currency = "EUR"
"""
SECTIONS = ("run", "admission", "routes", "errors", "pipelines", "settings", "rotes")
NAMES = st.sampled_from(
    [
        "app",
        "workers",
        "bind",
        "trusted_proxies",
        "concurrency",
        "clients",
        "rate",
        "burst",
        "match",
        "headers",
        "host",
        "timeout",
        "name",
        "rate_limit",
        "breaker",
        "bulkhead",
        "throttle",
        "policies",
        "retry",
        "key",
        "code",
        "status",
        "shop:OutOfStock",
        "asyncio:CancelledError",
        "limit",
        "target",
        "attempts",
        "fair_by",
        "tenant",
        "",
        "a.b",
        "\x7f",
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["5/s", "1e400/s", "-1s", "10ms", "*", "GET /{a}/{a...}", "/" * 600, "header:", "client", "0.0.0.0/0"]
    ),
    st.sampled_from(
        ["not_found", "499", "x:y", "nan", "inf", "9" * 400, "9" * 5000 + "s", "1" * 5000 + "/s", "\ud800"]
    ),
    st.sampled_from([10**30, -(10**400), float("nan"), 1e308, b"bytes", object()]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)
DOCUMENTS = st.dictionaries(st.sampled_from(SECTIONS), VALUES | st.dictionaries(NAMES, VALUES, max_size=6), max_size=6)


def read(make: Any) -> None:
    """Read it. Any other error than ``ConfigError`` comes out."""
    began = time.monotonic()
    with contextlib.suppress(ConfigError, ConfigErrors):
        SCHEMA.read(make())
    assert time.monotonic() - began < LONG


@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS)
def test_any_values_are_read_or_refused(document: dict[str, Any]) -> None:
    read(lambda: Document.of(document))


@pytest.mark.parametrize("section", SECTIONS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES, name=NAMES)
def test_any_value_of_any_setting_is_read_or_refused(section: str, value: Any, name: str) -> None:
    table: dict[str, Any] = {name: value}
    if section == "routes":
        read(lambda: Document.of({"routes": [{"match": "/x", **table}]}))
    read(lambda: Document.of({section: table}))


def test_files_that_were_scrambled_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    file = tmp_path / "holdfast.toml"
    pieces = [
        b"[",
        b"]",
        b"{",
        b'"',
        b"\n",
        b"=",
        b"\xff",
        b"\0",
        b"[[routes]]\n",
        b"[" * 2000,
        b"9" * 5000,
        b"{a=" * 500,
    ]
    for _ in range(300):
        content = bytearray(GOOD.encode())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(content))
            content[at : at + rng.choice([0, 1, 30])] = rng.choice(pieces) if rng.random() < 0.6 else rng.randbytes(3)
        file.write_bytes(content)
        read(lambda: from_file(file))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{b = " * 3000 + "1" + "}" * 3000,
        "[" + ".".join("a" * 3000) + "]\nx = 1\n",
        "".join(f'[[routes]]\nmatch = "/{number}"\n' for number in range(5000)),
        "[pipelines]\n" + "".join(f"p{number} = ['breaker']\n" for number in range(2000)),
        "[settings]\n" + "".join(f"k{number} = {number}\n" for number in range(30_000)),
        "[run]\n" + "".join(f"wrokers{number} = 1\n" for number in range(20_000)),
        "[[routes]]\nmatch = '/" + "x" * 900_000 + "'\n",
        "[admission]\ntrusted_proxies = [" + "'10.0.0.1'," * 50_000 + "]\n",
        "[errors]\n" + "".join(f"'a:B{number}' = 'nope'\n" for number in range(20_000)),
    ],
    ids=["lists", "tables", "dots", "routes", "pipelines", "settings", "typos", "pattern", "proxies", "errors"],
)
def test_large_and_deep_files_are_read_or_refused_in_time(text: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    read(lambda: from_file(file))
