"""Gates are exact under threads without a lock: no attribute is stored after another thread may have run.

CPython with the GIL switches threads at the start of a Python function, at a jump backwards and after a call;
3.11 may also run finalizers when a container is made. The check follows every path through the bytecode.
"""

import dis
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

import holdfast.resilience
from holdfast.core.policy import Gate

STORES = {"STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR", "DELETE_SUBSCR"}
SWITCHES = ("CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "FOR_ITER", "SEND", "YIELD_VALUE", "IMPORT_NAME")
CONTAINERS = ("BUILD_", "LIST_", "SET_", "DICT_", "MAP_ADD", "MAKE_FUNCTION", "UNPACK_EX")
ENDS = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}


def stores_after_a_switch(function: Callable[..., Any]) -> list[str]:
    """The places at which ``function`` stores although another thread may have run since it began."""
    code = list(dis.get_instructions(function))
    at = {instruction.offset: number for number, instruction in enumerate(code)}
    wrong: set[str] = set()
    seen: set[tuple[int, bool]] = set()
    todo = [(0, False)]
    while todo:
        number, switched = todo.pop()
        if number >= len(code) or (number, switched) in seen:
            continue
        seen.add((number, switched))
        instruction = code[number]
        name = instruction.opname
        if switched and name in STORES:
            wrong.add(f"{function.__qualname__}: {name} {instruction.argval!r} at offset {instruction.offset}")
        after = switched or name.startswith(SWITCHES) or name.startswith(CONTAINERS)
        if name not in ENDS:
            if not name.startswith(("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_ABSOLUTE")):
                todo.append((number + 1, after))
            if "JUMP" in name or name == "FOR_ITER":
                todo.append((at[instruction.argval], after))
    return sorted(wrong)


def gates() -> list[type[Gate[Any]]]:
    found: set[type[Gate[Any]]] = set()
    for module in pkgutil.walk_packages(holdfast.resilience.__path__, "holdfast.resilience."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Gate) and not inspect.isabstract(value):
                found.add(value)
    return sorted(found, key=lambda gate: gate.__name__)


class Good:
    count = 0
    limit = 2

    def enter(self, call: Any) -> Any:
        if self.count < self.limit:
            self.count += 1
            return True
        return self.refuse(call)

    def refuse(self, call: Any) -> None:
        raise ValueError(call)


class Bad(Good):
    def enter(self, call: Any) -> Any:
        if self.count < len("ab"):
            self.count += 1
        return True


class Loop(Good):
    def enter(self, call: Any) -> Any:
        while self.count < self.limit:
            self.count += 1
        return True


class Container(Good):
    def enter(self, call: Any) -> Any:
        seen = [self.count]
        self.count = 5
        return seen


def test_the_check_tells_one_step_from_several() -> None:
    assert stores_after_a_switch(Good.enter) == []
    assert [len(stores_after_a_switch(kind.enter)) for kind in (Bad, Loop, Container)] == [1, 1, 1]


@pytest.mark.parametrize("gate", gates(), ids=lambda gate: gate.__name__)
def test_no_gate_stores_after_another_thread_may_have_run(gate: type[Gate[Any]]) -> None:
    assert stores_after_a_switch(gate.enter) == []
    assert stores_after_a_switch(gate.exit) == []


def test_the_interpreter_has_the_lock_that_the_gates_stand_on() -> None:
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    assert is_enabled()
