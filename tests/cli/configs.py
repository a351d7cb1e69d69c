"""Directories with a configuration, for commands that read one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.main import main

FILE = """\
[run]
app = "shop:app"
workers = 2

[admission]
concurrency = { target = "20ms" }
clients = { rate = "100/s", burst = 200 }

[[routes]]
match = "POST /orders"
timeout = "2s"
criticality = "critical_plus"
rate_limit = { rate = "50/s", key = "header:x-tenant" }
bulkhead = 20

[[routes]]
match = "GET /orders/{id}"
timeout = "1s"

[[routes]]
match = "GET /orders/{id}"
headers = { x-version = "2" }
policies = [{ bulkhead = 3 }, "concurrency", { timeout = "3s" }]

[[routes]]
match = "/static/{path...}"
host = "*.example.org"
concurrency = false

[errors]
LookupError = "not_found"

[settings]
currency = "EUR"
"""


def forget(monkeypatch: pytest.MonkeyPatch, *beginnings: str) -> None:
    """Take out of the environment what means something to Holdfast, and what begins with one of ``beginnings``."""
    for name in list(os.environ):
        if name.startswith(("HOLDFAST_", "LISTEN_", *beginnings)):
            monkeypatch.delenv(name)


def enter(directory: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path | None = None) -> None:
    """Work in ``directory``, without anything of the environment's that means something to Holdfast."""
    forget(monkeypatch)
    monkeypatch.setenv("PWD", str(directory))
    monkeypatch.setenv("HOLDFAST_RUNTIME", str(runtime or directory))
    monkeypatch.chdir(directory)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What the command prints on standard output; nothing goes to standard error when it succeeds."""
    assert main(arguments) == status, capsys.readouterr().err
    captured = capsys.readouterr()
    assert status or captured.err == ""
    return captured.out


def complained(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> list[str]:
    """The lines on standard error of a command that fails."""
    assert main(arguments) == status
    return capsys.readouterr().err.splitlines()


def answered(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    """The one line of JSON that the command prints."""
    text = said(capsys, *arguments, "--json", status=status)
    assert text.count("\n") == 1
    return json.loads(text)
