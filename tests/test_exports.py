"""The public face: what ``from holdfast import ...`` gives, and what it costs."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import holdfast

LIMIT = 0.060
"""Seconds that ``import holdfast`` may take beyond the start of the interpreter."""
ROUNDS = 9


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def seconds(code: str) -> float:
    """The fastest of some runs of an interpreter; the machine may be busy meanwhile."""
    text = f"import time; began = time.perf_counter(); {code}; print(time.perf_counter() - began)"
    return min(float(run(text)) for _ in range(ROUNDS))


def test_every_public_name_can_be_had() -> None:
    for name in holdfast.__all__:
        value = getattr(holdfast, name)
        assert value.__module__.startswith("holdfast."), name
        assert name in dir(holdfast)


def test_each_name_is_listed_once() -> None:
    assert len(dir(holdfast)) == len(set(dir(holdfast)))


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    source = Path(holdfast.__file__).read_text()
    seen: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("holdfast."):
            seen |= {alias.name: node.module for alias in node.names}
    assert set(seen) == set(holdfast.__all__)
    for name, module in seen.items():
        assert getattr(holdfast, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from holdfast import Nothing"], capture_output=True, text=True, check=False
    )
    assert "ImportError: cannot import name 'Nothing' from 'holdfast'" in done.stderr


def test_the_import_is_quick() -> None:
    assert seconds("import holdfast") < LIMIT


def modules(code: str) -> set[str]:
    """The top-level modules that are there after ``code``, without those of the standard library."""
    loaded = run(f"{code}; import json, sys; print(json.dumps(list(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(loaded)} - set(sys.stdlib_module_names)


def test_the_import_brings_in_nothing_but_msgspec() -> None:
    # msgspec.inspect brings in what msgspec itself uses where it is installed: typing_extensions.
    with_msgspec = modules("import msgspec, msgspec.inspect")
    names = ", ".join(holdfast.__all__)
    for code in ("import holdfast", f"from holdfast import {names}", "import holdfast.flow, holdfast.testing"):
        assert modules(code) - with_msgspec == {"holdfast"}, code
