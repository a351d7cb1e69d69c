"""Secrets that are given another text behind the same file name: noticed without a word about it in any layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Running, request, wait_for

Serve = Callable[..., Running]

LAYERS = """
[settings]
number = {number}
password = {{ file = "password" }}
dsn = {{ file = "dsn" }}
journal = {{ file = "journal" }}
"""
ROTATED = "a secret's file has changed"


def put(directory: Path, name: str, text: str) -> None:
    """Replace a file, as whoever rotates secrets does."""
    (directory / ".fresh").write_text(text)
    (directory / ".fresh").replace(directory / name)


def start(serve: Serve, directory: Path) -> Running:
    for name in ("password", "dsn", "journal"):
        put(directory, name, f"{name}-1\n")
    put(directory, "holdfast.toml", LAYERS.format(number=1))
    running = serve("rotating", "--workers", "2", "--state-dir", "state")
    assert said(running) == {"password-1 dsn-1 1"}
    return running


def said(running: Running) -> set[str]:
    """What the workers say: 40 connections, so that both have very likely answered one."""
    return {request(running.address)[2].decode() for _ in range(40)}


def config(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.ask("config")
    return found


def held(running: Running, version: int) -> bool:
    now = config(running)
    return now["version"] == version and {one["version"] for one in now["workers"]} == {version}


@pytest.mark.parametrize(
    ("name", "now"), [("password", "password-2 dsn-1 1"), ("dsn", "password-1 dsn-2 1")], ids=["by-name", "by-type"]
)
def test_a_secret_that_is_rotated_holds_in_every_worker(serve: Serve, tmp_path: Path, name: str, now: str) -> None:
    running = start(serve, tmp_path)
    pids = running.pids()
    put(tmp_path, name, f"{name}-2\n")
    wait_for(lambda: held(running, 2), 30, "the rotation is noticed")
    assert said(running) == {now}
    assert running.pids() == pids
    last = running.ask("config-history")["entries"][-1]
    assert (last["version"], last["verdict"], last["who"], last["why"]) == (2, "applied", "file", ROTATED)
    assert f"settings.{name}: <secret> -> <secret>" in running.log.replace("'", "")
    assert f"{name}-" not in running.log


def test_a_command_applies_a_secret_that_only_the_workers_know(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path)
    put(tmp_path, "dsn", "dsn-2")
    running.ask("config-apply", who="ann")  # or the watcher was faster
    wait_for(lambda: held(running, 2), 30, "it holds")
    assert said(running) == {"password-1 dsn-2 1"}
    assert running.ask("config-apply", who="ann")["total"] == 0


def test_a_file_that_goes_and_comes_again_is_refused_meanwhile(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path)
    (tmp_path / "password").unlink()
    wait_for(lambda: config(running)["refused"], 30, "its absence is noticed")
    assert "settings.password: expected a file" in config(running)["refused"][0]
    assert said(running) == {"password-1 dsn-1 1"}
    put(tmp_path, "password", "password-2")
    wait_for(lambda: held(running, 2), 30, "it is noticed again")
    assert said(running) == {"password-2 dsn-1 1"}
    assert config(running)["refused"] == []


def test_a_rotation_does_not_undo_a_rollback(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path)
    put(tmp_path, "holdfast.toml", LAYERS.format(number=2))
    wait_for(lambda: held(running, 2), 30, "the change holds")
    running.ask("config-rollback", version=1)
    assert said(running) == {"password-1 dsn-1 1"}
    put(tmp_path, "password", "password-2")
    wait_for(lambda: held(running, 4), 30, "the rotation is noticed")
    assert said(running) == {"password-2 dsn-1 1"}


def test_a_file_that_is_no_secrets_makes_no_version(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path)
    put(tmp_path, "journal", "journal-2")
    put(tmp_path, "dsn", "dsn-2")  # noticed with it, if it were
    wait_for(lambda: held(running, 2), 30, "the rotation is noticed")
    put(tmp_path, "journal", "journal-3")
    put(tmp_path, "dsn", "dsn-3")
    wait_for(lambda: held(running, 3), 30, "the next one is noticed")
    proposals = running.ask("config-history")["entries"]
    assert [(one["version"], one["why"]) for one in proposals] == [(1, ""), (2, ROTATED), (3, ROTATED)]
