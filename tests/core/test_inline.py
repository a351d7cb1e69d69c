"""What is written into a generated function must do what calling it would have done."""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.core.call import Call
from holdfast.core.clock import VirtualClock
from holdfast.core.inline import inline
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings

STEP = 10


class Small:
    """Methods of the forms that gates have."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: list[object] = []

    def nothing(self, call: Any) -> None:
        """A docstring, and no more."""

    def constant(self, call: Any) -> str:
        return "admitted"

    def one_of_two(self, call: Any) -> Any:
        count = self.count
        if count < call:
            self.count = count + STEP
            return count
        return self.other(count)

    def nested(self, call: Any) -> Any:
        if call > 0:
            doubled = call * 2
            if doubled > STEP:
                if doubled > 2 * STEP:
                    return "much"
                self.seen.append("some")
            elif doubled == 4:
                return "four"
        self.seen.append(call)
        return "rest"

    def tried(self, call: Any) -> Any:
        found = self.other(call)
        try:
            if call == 3:
                raise ValueError(found)
            return found
        except ValueError as error:
            return str(error)
        finally:
            self.seen.append("finally")
            del found

    def raising(self, call: Any) -> Any:
        if call == 3:
            raise LookupError("three")
        self.count += call

    def looped(self, call: Any) -> Any:
        for number in range(call):
            self.seen.append(number)
        return len(self.seen)

    def builtin(self, call: Any) -> Any:
        return max(call, STEP // 3)

    def other(self, call: Any) -> Any:
        self.seen.append("other")
        return ("other", call)

    # What follows is not for writing elsewhere.

    def returns_in_a_loop(self, call: Any) -> Any:
        for number in range(call):
            if number == 2:
                return number
        return None

    def returns_in_a_block(self, call: Any) -> Any:
        with suppress(ValueError):
            return int(call)
        return 0

    def comprehends(self, call: Any) -> Any:
        return [number for number in range(call) if number != self.count]

    def encloses(self, call: Any) -> Any:
        def inner() -> Any:
            return call

        return inner()

    def assigns_to_its_parameter(self, call: Any) -> Any:
        call += 1
        return [call]

    def takes_more(self, call: Any, more: int = 5) -> Any:
        return call + more

    def returns_at_last(self, call: Any) -> Any:
        try:
            return self.other(call)
        finally:
            if call == 3:
                return "three"  # noqa: B012 - a return that the first one does not survive

    def hides(self, call: Any) -> Any:
        self.__hidden = call
        return self.__hidden


FITS = ["nothing", "constant", "one_of_two", "nested", "tried", "raising", "looped", "builtin"]
UNFIT = [
    "returns_in_a_loop",
    "returns_in_a_block",
    "comprehends",
    "encloses",
    "assigns_to_its_parameter",
    "takes_more",
    "returns_at_last",
    "hides",
]


def written(method: Callable[..., Any]) -> Callable[[Any], Any]:
    found = inline(method, ("owner", "call"), "answer", "0")
    assert found is not None
    lines = ["def run(call):", *(f"    {line}" for line in found.lines), "    return answer"]
    namespace = dict(found.values)
    exec("\n".join(lines), namespace)
    run: Callable[[Any], Any] = namespace["run"]
    return run


def outcome(run: Callable[[Any], Any], value: Any) -> Any:
    try:
        return run(value)
    except LookupError as error:
        return repr(error)


@pytest.mark.parametrize("name", FITS)
def test_what_is_written_does_what_the_call_does(name: str) -> None:
    called, inlined = Small(), Small()
    run = written(getattr(inlined, name))
    for value in [*range(30), 3, 2, 1]:
        assert outcome(run, value) == outcome(getattr(called, name), value)
        assert (inlined.count, inlined.seen) == (called.count, called.seen)


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_called(name: str) -> None:
    assert inline(getattr(Small(), name), ("owner", "call"), "answer", "0") is None


def test_only_methods_with_a_text_fit() -> None:
    def free(call: Any) -> Any:
        return call

    namespace: dict[str, Any] = {}
    exec("class Typed:\n    def enter(self, call):\n        return call\n", namespace)
    methods: list[Callable[..., Any]] = [free, [].append, namespace["Typed"]().enter, len, print]
    for method in methods:
        assert inline(method, ("owner", "call"), "answer", "0") is None


def test_a_method_too_long_is_called(tmp_path: Path) -> None:
    def sized(lines: int) -> Any:
        body = "".join(f"        self.a{number} = call\n" for number in range(lines))
        return module(tmp_path, f"sized_{lines}", f"class Gate:\n    def enter(self, call):\n{body}").Gate().enter

    assert inline(sized(50), ("owner", "call"), "", "0") is not None
    assert inline(sized(100), ("owner", "call"), "", "0") is None


def module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # where inspect looks for it
    try:
        spec.loader.exec_module(made)
    finally:
        del sys.modules[name]
    return made


@pytest.mark.parametrize(
    "changed",
    [
        "class Gate:\n    def enter(self, call):\n        return call + 2\n",
        "class Gate:\n    def enter(self, call):\n        return call - 1\n",
        "class Gate:\n    def enter(self, call):\n        return call.one\n",
        "# a line more\nclass Gate:\n    def enter(self, call):\n        return call + 1\n",
        "class Gate:\n    def enter(self, call): return (\n",
        "",
    ],
)
def test_a_file_that_was_replaced_under_the_process_is_not_believed(tmp_path: Path, changed: str) -> None:
    gate = module(tmp_path, "replaced", "class Gate:\n    def enter(self, call):\n        return call + 1\n").Gate()
    (tmp_path / "replaced.py").write_text(changed)
    assert inline(gate.enter, ("owner", "call"), "answer", "0") is None


class Framed(Gate[GateSettings]):
    """Remembers whose frame it ran in."""

    kind = "framed"

    @accepts(GateSettings)
    def __init__(self, settings: GateSettings) -> None:
        self.entered = self.left = ""
        super().__init__(settings)

    def enter(self, call: Call) -> bool:
        self.entered = sys._getframe().f_code.co_name
        return True

    def exit(self, call: Call, token: bool) -> None:
        self.left = sys._getframe().f_code.co_name


def test_gates_are_written_into_the_function_they_guard() -> None:
    gate = Framed()
    assert Pipeline("x", gate)(lambda: 5)() == 5
    assert (gate.entered, gate.left) == ("run", "run")
    clock = VirtualClock()

    async def fn() -> int:
        return 6

    gate = Framed()
    assert clock.run(Pipeline("x", gate, clock=clock)(fn)()) == 6
    assert (gate.entered, gate.left) == ("run", "run")


def test_a_gate_is_left_also_when_the_function_raises() -> None:
    gate = Framed()
    with pytest.raises(ZeroDivisionError):
        Pipeline("x", gate)(lambda: 1 // 0)()
    assert (gate.entered, gate.left) == ("run", "exit")
