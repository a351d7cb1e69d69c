"""Where the text of a method is found, and that nothing is lost where it is not."""

import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

GATE = '''
"""Tells where it ran."""
from __future__ import annotations
import sys
from holdfast.core.policy import Gate
from holdfast.core.settings import GateSettings
from holdfast.resilience.retry import Retry
from holdfast.resilience.timeout import Timeout
from holdfast.core.pipeline import Pipeline


class Telling(Gate[GateSettings]):
    def __init__(self) -> None:
        super().__init__(GateSettings(name="telling"))

    def enter(self, call: Unknown) -> str:
        """Of
        two lines."""
        where: Unknown = sys._getframe().f_code.co_name
        assert where, "checked"
        print(where)
        return where

    def exit(self, call: Unknown, token: str) -> None:
        pass

print(Pipeline("x", Telling())(lambda: 5)())
'''


@pytest.mark.parametrize(
    ("form", "options", "where"),
    [
        ("source", [], "run"),
        ("source", ["-O"], "run"),
        ("source", ["-OO"], "run"),
        ("zip", [], "run"),
        ("code", [], "enter"),
    ],
)
def test_a_module_is_used_in_whatever_form_it_comes(tmp_path: Path, form: str, options: list[str], where: str) -> None:
    source = tmp_path / "telling.py"
    source.write_text(GATE)
    found = tmp_path
    if form == "code":
        py_compile.compile(str(source), str(tmp_path / "telling.pyc"))
    elif form == "zip":
        found = tmp_path / "packed.zip"
        with zipfile.ZipFile(found, "w") as packed:
            packed.write(source, "telling.py")
    if form != "source":
        source.unlink()
    script = f"import sys; sys.path.insert(0, {str(found)!r}); import telling"
    done = subprocess.run(
        [sys.executable, *options, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([where, "5"], "")
