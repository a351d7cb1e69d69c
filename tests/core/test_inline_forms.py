"""Forms of methods that a text could be wrong for, what is kept of them, and how they can be followed."""

import asyncio
import builtins
import gc
import linecache
import sys
import traceback
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.core import fuse as fusing
from holdfast.core.call import Call
from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import Rejected
from holdfast.core.fuse import Again, Around, Invocation, fuse
from holdfast.core.inline import Inlined, inline
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate
from holdfast.core.settings import GateSettings
from holdfast.resilience.retry import Retry
from holdfast.resilience.timeout import Timeout

HEAD = "import contextlib\nclass Methods:\n  def enter(self, call):\n"


def made(body: str, name: str = "written", *, before: str = "", decorated: str = "") -> Any:
    """An object with ``enter``, whose ``body`` can be read."""
    text = before + HEAD.replace("  def", f"{decorated}  def") + "".join(f"    {line}\n" for line in body.splitlines())
    filename = f"<{name} {abs(hash(text))}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(text, filename, "exec", dont_inherit=True), namespace)
    return namespace["Methods"]()


def text_of(owner: Any) -> Inlined | None:
    return inline(owner.enter, ("owner", "call"), "answer", "0")


@pytest.mark.parametrize(
    "body",
    [
        '"""Of two\nlines."""\nreturn 1',
        'return """kept\nas it is"""',
        "return f'{call!r}\\n{{}}'",
        "größe = 2; return größe",
        "if call: return 1\nelse: return 2",
        "answer: 'int' = 3\nreturn answer",
        "for n in (1, 2):\n  if n == 2: break\nelse: return\nreturn 3".replace("else: return\n", ""),
        "token0 = 1\ntry:\n  pass\nexcept* ValueError as error:\n  del token0\nreturn 2",
        "with contextlib.suppress(ValueError): int('x')\nreturn call",
        "assert call, (\n  1)\nreturn 1 + \\\n 2",
        "pass",
    ],
)
def test_what_fits(body: str) -> None:
    owner = made(body)
    found = text_of(owner)
    assert found is not None
    namespace: dict[str, Any] = dict(found.values)
    exec("\n".join(["def run(call):", *(f"  {line}" for line in found.lines), "  return answer"]), namespace)
    assert namespace["run"]("given") == owner.enter("given")


@pytest.mark.parametrize(
    "body",
    [
        "match call:\n  case [first]: return first\n  case other: return other",
        "try:\n  int('x')\nexcept ValueError as call: pass",
        "try:\n  int('x')\nexcept ValueError as self: pass",
        "return locals()",
        "return eval('call')",
        "return __class__",
        "yield call",
        "global set_here\nset_here = call",
        "if (found := call): return found",
        "return (lambda: call)()",
        "return {n for n in range(3)}",
        "if call: found = 1\nreturn found",
        "found = 1\ndel found\nreturn found",
        "try:\n  int(call)\nexcept ValueError as error: pass\nreturn error",
        "for n in call: pass\nreturn n",
        "while call: found = 1\nreturn found",
        "with contextlib.suppress(ValueError): found = int(call)\nreturn found",
        "found += 1",
        "found = 1\nfor n in (1, 2):\n  self.n = found\n  del found",
        "found = 1\ntry:\n  del found\n  int(call)\n  found = 2\nfinally: self.n = found",
        "error = 1\nfor n in (1, 2):\n  self.n = error\n  try: int('x')\n  except ValueError as error: pass",
        "found = 1\ntry:\n  del found\n  int(call)\nexcept ValueError: return found",
        "error = 1\ntry:\n  int(call)\nexcept ValueError as error: pass\nreturn error",
        "del found\nfound = 1",
        "try:\n  int(call); found = 1\nfinally: print(found)",
        "found: int\nreturn found",
        "while call:\n  return 1",
        "try:\n  return 1\nfinally:\n  return 2",
        "try:\n  int(call)\nexcept ValueError: return 1\nelse: return 2",
        "try:\n  return 1\nexcept* ValueError: pass",
        "try:\n  if call: return 1\nexcept ValueError: pass\nreturn 2",
        "import os",
        "return self.__hidden",
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_what_does_not_fit(body: str) -> None:
    assert text_of(made(body)) is None


def test_what_is_decorated_does_not_fit() -> None:
    assert text_of(made("return 1", before="same = lambda f: f\n", decorated="  @same\n")) is None


def test_a_method_that_would_be_twice_as_long_with_each_line_is_given_up_at_once() -> None:
    assert text_of(made("if call:\n  if self: return 1\n" * 30)) is None


def test_builtins_of_a_modules_own_are_no_builtins() -> None:
    owner = made("return len(call)")
    assert text_of(owner) is not None
    namespace = {"__builtins__": {"len": lambda call: "own"}}
    owner.enter = types.MethodType(types.FunctionType(type(owner).enter.__code__, namespace), owner)
    assert text_of(owner) is None
    assert owner.enter("x") == "own"


def test_a_global_that_is_called_as_the_answer_is_another_thing() -> None:
    owner = made("return answer", before="answer = 5\n")
    found = text_of(owner)
    assert found is not None
    assert not any(line.endswith("= answer") for line in found.lines)


def test_a_builtin_that_somebody_adds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    decorated = Pipeline("x", Fragmented(Around(made("self.n = result(call)").enter)))(lambda: 5)
    with pytest.raises(NameError, match="name 'result' is not defined"):
        decorated()
    monkeypatch.setattr(builtins, "result", lambda call: call.operation, raising=False)
    assert decorated() == 5


def test_a_text_over_several_lines_in_another_is_what_it_was() -> None:
    quotes = '"' * 3
    owner = made(f"return f'''{{{quotes}one\ntwo{quotes}}} {{call}}'''")
    decorated = Pipeline("x", Fragmented(Around(owner.enter, lambda call, token: seen.append(token))))(lambda: 5)
    seen: list[str] = []
    decorated()
    assert seen[0].startswith("one\n    two Call(")


def test_an_answer_that_nobody_wants_is_worked_out_all_the_same() -> None:
    owner = made("return self.seen.append(call)")
    owner.seen = []
    Pipeline("x", Fragmented(Around(owner.enter))).call(lambda: 5)
    assert len(owner.seen) == 1


def test_code_that_was_replaced_is_read_again() -> None:
    first, second = made("return 'first'"), made("return 'second'")
    found = text_of(first)
    assert found is not None
    type(first).enter.__code__ = type(second).enter.__code__
    again = text_of(first)
    assert again is not None
    assert [*found.lines, *again.lines] == ["answer = 'first'", "answer = 'second'"]


def test_what_was_read_of_a_method_goes_with_its_class() -> None:
    owner = made("return call")
    found = text_of(owner)
    kind = weakref.ref(type(owner))
    del owner, found
    gc.collect()
    assert kind() is None


class Plain(Gate[GateSettings]):
    """Calls itself in every way."""

    def __init__(self) -> None:
        self.left = 0
        super().__init__(GateSettings(name="plain"))

    def enter(self, call: Call) -> str:
        return sys._getframe().f_code.co_name


def test_a_method_is_called_while_somebody_follows_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Plain()
    assert inline(gate.enter, ("owner", "call"), "answer", "0") is not None
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        found = inline(gate.enter, ("owner", "call"), "answer", "0")
    finally:
        sys.settrace(before)
    assert found is None
    for tool in (1, 4):
        monitoring = types.SimpleNamespace(DEBUGGER_ID=0, COVERAGE_ID=1, get_tool={tool: "a tool"}.get)
        monkeypatch.setattr(sys, "monitoring", monitoring, raising=False)
        assert (inline(gate.enter, ("owner", "call"), "answer", "0") is None) is (tool == 1)


def test_an_exit_that_is_a_coroutine_function_by_mistake_is_called() -> None:
    class Wrong:
        def enter(self, call: Call) -> None:
            pass

        async def exit(self, call: Call, token: None) -> None:
            raise AssertionError("nobody awaits it")

    wrong = Wrong()
    run = Pipeline("x", Fragmented(Around(wrong.enter, wrong.exit)))  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="never awaited"):
        assert run.call(lambda: 5) == 5


class Fragmented(Gate[GateSettings]):
    def __init__(self, fragment: Around) -> None:
        self.given = fragment
        super().__init__(GateSettings(name="fragmented"))

    def enter(self, call: Call) -> None:
        raise NotImplementedError

    def fragment(self, asynchronous: bool) -> Around:
        return self.given


def test_an_admission_that_returns_an_awaitable_is_awaited() -> None:
    async def later() -> str:
        return "admitted"

    class Marked:
        left = ""

        def admit(self, call: Call) -> Any:
            return later()

        def exit(self, call: Call, token: str) -> None:
            self.left = token

    marked = Marked()
    clock = VirtualClock()
    pipeline = Pipeline("x", Fragmented(Around(marked.admit, marked.exit, waits=True)), clock=clock)

    async def fn() -> int:
        return 5

    assert clock.run(pipeline.acall(fn)) == 5
    assert marked.left == "admitted"


class Waiting(Gate[GateSettings]):
    """Waits at two places, and gives back what it took when it is called off."""

    waits = True

    def __init__(self) -> None:
        self.held = 0
        super().__init__(GateSettings(name="waiting"))

    def enter(self, call: Call) -> None:
        raise NotImplementedError

    async def admit_async(self, call: Call) -> str:
        await call.clock.sleep(1.0)
        self.held += 1
        try:
            await call.clock.sleep(1.0)
        except BaseException:
            self.held -= 1
            raise
        return "held"

    def exit(self, call: Call, token: str) -> None:
        self.held -= 1


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
def test_a_wait_that_is_put_in_is_called_off_wherever_it_waits(seconds: float) -> None:
    clock = VirtualClock()
    gates = Waiting(), Waiting()
    assert inline(gates[0].admit_async, ("owner", "call"), "answer", "0") is None
    assert inline(gates[0].admit_async, ("owner", "call"), "answer", "0", asynchronous=True) is not None

    @Pipeline("x", *gates, clock=clock)
    async def fn() -> None:
        raise AssertionError("called off before")

    async def main() -> None:
        task = asyncio.create_task(fn())
        await clock.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert [gate.held for gate in gates] == [0, 0]


class Once(Gate[GateSettings]):
    """Admits one attempt, and no more."""

    admitted = False

    def __init__(self) -> None:
        super().__init__(GateSettings(name="once"))

    def enter(self, call: Call) -> None:
        if self.admitted:
            self.refuse(call, Rejected("once", "it was"))
        self.admitted = True


@pytest.mark.usefixtures("no_collector")
def test_a_call_that_is_refused_at_its_second_attempt_frees_its_task_at_once() -> None:
    clock = VirtualClock()
    stack = Retry(3), Once(), Timeout(2.0)
    pipeline = Pipeline("x", *stack, classify=Classifier(failed=lambda result: True), clock=clock)
    tasks: list[weakref.ref[Any]] = []

    @pipeline
    async def fn() -> int:
        return 5

    async def main() -> None:
        task = asyncio.ensure_future(fn())
        tasks.append(weakref.ref(task))
        await asyncio.wait({task})  # awaited itself, it would be in a frame that the refusal keeps
        assert isinstance(task.exception(), Rejected)

    clock.run(main())
    assert stack[1].refused == 1
    assert tasks[0]() is None, "only the garbage collector would have freed it"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_methods_are_called_where_python_nests_no_deeper() -> None:
    body = "\n".join(" " * depth + "for n in (1,):" for depth in range(9)) + "\n" + " " * 9 + "self.n = n"
    owner = made(body)
    assert text_of(owner) is not None
    again = Again(lambda *_: None, lambda *_: None, lambda *_: None)
    call = Call(lambda: 5, (), {}, "x", VirtualClock(), 0.0)
    inner = Invocation(DEFAULT, lambda: 0.0)
    assert fuse([again] * 7 + [Around(owner.enter)], inner, asynchronous=False)(call) == 5
    assert owner.n == 1


def test_the_lines_of_texts_are_shown_and_do_not_heap_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "_SHOWN", deque())
    monkeypatch.setattr(fusing, "SHAPES_LIMIT", 4)

    def failing(number: int) -> str:
        decorated = Pipeline("x", Fragmented(Around(made(f"self.n = {number}\nraise ValueError(call)").enter)))
        with pytest.raises(ValueError, match="Call") as caught:
            decorated.call(lambda: None)
        assert "raise (globals0['ValueError'] if" in "".join(traceback.format_exception(caught.value))
        return caught.traceback[-1].frame.code.raw.co_filename

    names = [failing(number) for number in range(123_400, 123_406)]
    assert sum(name in linecache.cache for name in names) <= 2
    assert names[-1] in linecache.cache
    assert names[0] not in linecache.cache
