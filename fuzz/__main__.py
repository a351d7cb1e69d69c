"""``python -m fuzz``: run the targets, each for a time, and say how far they have come."""

import argparse
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzz.target import Target, another
from fuzz.targets import NAMES, target_of

SECONDS: Final = 60.0
"""For each target, unless told otherwise."""
LONGEST_RUN: Final = 10
"""Seconds that one input may take."""
MEMORY: Final = 2048
"""MiB that a process may take."""
GRACE: Final = 60.0
"""Seconds beyond its time after which a process that does not end is ended."""
INTERVAL: Final = 5.0
"""Seconds between two lines of progress."""
FINDINGS: Final = Path("build/fuzz")
"""Where an input is kept that broke something. Nothing in there is for the repository: write a test."""

_PROGRESS: Final = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(NAMES)}; by default all of them")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each target; by default %(default)g")
    parser.add_argument("--seed", type=int, help="the same seed makes the same mutations; by default another each time")
    parser.add_argument("--blind", action="store_true", help="without atheris: mutations that no coverage guides")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run TARGET once, with this input")
    options = parser.parse_args(arguments)
    names = options.targets or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(NAMES)}")
    if options.seconds <= 0:
        parser.error("give more than 0 seconds")
    if options.input is not None:
        if len(names) != 1:
            parser.error("an input is for one target")
        target_of(names[0]).run(options.input.read_bytes())
        print(f"{names[0]}: {options.input} breaks nothing")
        return 0
    guided = not options.blind and importlib.util.find_spec("atheris") is not None
    if not (guided or options.blind):
        print("fuzz: atheris is not installed here, so the mutations are blind (it has wheels for Linux on x86_64)")
    seed = random.randrange(1, 2**31) if options.seed is None else options.seed
    broken = [name for name in names if not (run_guided if guided else run_blind)(name, options.seconds, seed)]
    print(f"fuzz: seed {seed}: {', '.join(broken) + ' broken' if broken else 'nothing broken'}")
    return 1 if broken else 0


def run_guided(name: str, seconds: float, seed: int) -> bool:
    """Let coverage guide the mutations, for so many seconds. Whether nothing broke."""
    target = target_of(name)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {target.about}; {seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(target.seeds):
            (Path(corpus) / f"{number}").write_bytes(data)
        command = [
            sys.executable, "-m", "fuzz.guided", name, f"-seed={seed}", f"-max_total_time={max(1, round(seconds))}",
            f"-timeout={LONGEST_RUN}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={FINDINGS}/{name}-", corpus,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        watchdog = threading.Timer(seconds + GRACE, process.kill)
        watchdog.start()
        try:
            last = _watch(process, name, seconds)
            status = process.wait(GRACE)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
    if status:
        print("\n".join(last))
        print(f"{name}: broken (status {status}); scripts/fuzz {name} --input FILE runs it again")
    return status == 0


def _watch(process: "subprocess.Popen[str]", name: str, seconds: float) -> list[str]:
    """Show how it goes, until the process ends; the last lines that it has written."""
    assert process.stdout is not None
    began = said = time.monotonic()
    lines: list[str] = []
    for line in process.stdout:
        found = _PROGRESS.match(line)
        now = time.monotonic()
        if found is None:
            lines = [*lines[-60:], line.rstrip()]
        elif now >= said + INTERVAL:
            said = now
            print(f"{name}: {now - began:.0f} s of {seconds:g}, {found[1]} inputs, {found[2]} edges", flush=True)
    return lines


def run_blind(name: str, seconds: float, seed: int) -> bool:
    """Mutate the seeds, and what came of them, at random. Whether nothing broke."""
    target = target_of(name)
    print(f"{name}: {target.about}; {seconds:g} s, seed {seed}, blind", flush=True)
    rng = random.Random(seed)
    began = said = time.monotonic()
    count = 0
    while (now := time.monotonic()) < began + seconds:
        if not _survives(target, another(target, rng)):
            return False
        count += 1
        if now >= said + INTERVAL:
            said = now
            print(f"{name}: {now - began:.0f} s of {seconds:g}, {count} inputs", flush=True)
    print(f"{name}: {count} inputs")
    return True


def _survives(target: Target, data: bytes) -> bool:
    try:
        target.run(data)
    except Exception:  # whatever comes out is a finding
        FINDINGS.mkdir(parents=True, exist_ok=True)
        place = FINDINGS / f"{target.name}-input"
        place.write_bytes(data)
        traceback.print_exc()
        print(f"{target.name}: broken; scripts/fuzz {target.name} --input {place} runs it again")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
