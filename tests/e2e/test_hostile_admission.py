"""Broken settings files under a running service: it serves on by the last good one, and takes the next good one."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.harness import Running, request, wait_for

ROUNDS = 50
SEED = 20261124


def good(number: int) -> bytes:
    return b"[settings]\nnumber = %d\n" % number


def content(rng: random.Random) -> bytes:
    """Something that is no settings file."""
    kind = rng.randrange(8)
    if kind == 0:
        return b"\xff\xfe" + rng.randbytes(rng.randrange(1, 5000))
    if kind == 1:
        return b"[settings]\nnumber = 5 # " + b"x" * (1024 * 1024)
    if kind == 2:
        return b"a = " + b"[" * 5000
    if kind == 3:
        return b"[settings]\nnumber = " + b"9" * rng.randrange(30, 6000)
    if kind == 4:
        return b"[[routes]]\nmatch = '/x'\n" * 2
    if kind == 5:
        return b"[admission]\ntrusted_proxies = ['0.0.0.0/0']\n"
    if kind == 6:
        return b"[settings]\nnumber = 13\n"  # the app's own check refuses it
    return b"[settings]\nnumber = 5\n" + rng.choice(
        [b"[", b"\0", b"number = 6\n", b"[rotes]\n", b"[errors]\n'x' = 1\n"]
    )


def clear(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def put(file: Path, number: int, rng: random.Random) -> None:
    """Put what is wrong in the place of the settings file."""
    kind = number % 5
    if kind == 1:
        clear(file)
        os.mkfifo(file)
    elif kind == 2:
        clear(file)
        file.mkdir()
        (file / "a.toml").write_bytes(b"[settings]\nnumbr = 5\n")
    elif kind == 3:
        clear(file)
        file.symlink_to(rng.choice(["holdfast.toml", "/dev/zero", "nowhere", "/proc/self/mem"]))
    else:
        clear(file)
        fresh = file.with_name(".fresh")
        fresh.write_bytes(content(rng))
        fresh.replace(file)


def test_fifty_broken_files_change_nothing_and_the_next_good_one_holds(
    serve: Callable[..., Running], tmp_path: Path
) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_bytes(good(1))
    options = "--workers", "2", "--config", str(file)
    running = serve("configured", *options, env={"STATE_DIRECTORY": str(tmp_path / "state")})
    rng = random.Random(SEED)
    before = running.pids()

    def config() -> dict[str, Any]:
        found: dict[str, Any] = running.ask("config")
        return found

    for number in range(ROUNDS):
        told = config()["refused_count"]
        put(file, number, rng)
        wait_for(lambda: config()["refused_count"] > told, 30, f"round {number} is refused")  # noqa: B023
        assert request(running.address)[2].split()[2] == b"1"
        assert config()["version"] == 1
    clear(file)
    file.write_bytes(good(2))
    wait_for(lambda: {one["version"] for one in config()["workers"]} == {2}, 30, "the good one holds")
    assert running.pids() == before
    assert "Traceback" not in running.log
