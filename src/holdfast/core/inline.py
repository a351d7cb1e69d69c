"""Writes the text of a small method into a generated function, so that calling it costs no frame.

A frame is a third of what a gate costs. So the text of ``enter`` and ``exit`` is put where their call would stand::

    def enter(self, call):                      v0 = gate4.in_flight
        in_flight = self.in_flight              if v0 < gate4._open:
        if in_flight < self._open:                  gate4.in_flight = v0 + 1
            self.in_flight = in_flight + 1          token4 = True
            return True                         else:
        return self._otherwise(call)                token4 = gate4._otherwise(call)

Nothing depends on it: a method whose text is not there, is not the text it was compiled from (the file may have
been replaced under the running process), or does not fit the rules below, is called. So are all while a debugger
or a measurement of coverage is on: they look for the lines of the method itself.

It fits when it is a plain function of at most ``NODES_LIMIT`` nodes, without functions or comprehensions inside,
without ``super()`` or what reads the frame it is called in, without a ``return`` inside of a loop or a ``with``, and
when each of its variables is certainly set where it is read. Globals are looked up in its module each time, since
tests and tools replace them; only those of Holdfast itself are taken as they are. What asks for its frame all the
same (``sys._getframe``, a stack level of ``warnings``) sees that of the generated function.
"""

import __future__

import ast
import builtins
import copy
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

from holdfast.core.bindings import check_bound

NODES_LIMIT: Final = 400
"""Nodes of the syntax tree that is put in; what follows a branch with a ``return`` is there once for each branch."""
OWN: Final = __name__.partition(".")[0]
ANSWER: Final = "<answer>"
"""What no name in a method can be."""
BUILTINS: Final = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type | BuiltinFunctionType)
)
"""What Python has, not what somebody added: that may be called what a variable of a generated function is."""
READ_FRAMES: Final = ("super", "locals", "globals", "vars", "dir", "eval", "exec", "breakpoint", "__import__")
MAKES_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp)
OTHERS: Final = (ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Import, ast.ImportFrom, ast.NamedExpr)

ALIKE: Final = ("co_code", "co_names", "co_varnames", "co_argcount", "co_consts", "co_exceptiontable")
"""What code has in common with the text it was made of."""
FUTURE: Final = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


class Inlined(NamedTuple):
    """``lines`` for a generated function, the ``values`` of the names in them, and the ``variables`` that they set."""

    lines: tuple[str, ...]
    values: dict[str, Any]
    variables: tuple[str, ...]


class _UnfitError(Exception):
    """The method has to be called."""


_Text: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


class _Kept:
    """What has been read of a method: its tree if it fits, and its text for each place that it was put in."""

    def __init__(self, function: FunctionType) -> None:
        self.code = function.__code__
        self.tree: ast.FunctionDef | ast.AsyncFunctionDef | None = None
        with suppress(Exception):  # whatever is wrong with the text: the method itself can be called
            self.tree = _parsed(function)
        self.texts: dict[tuple[Any, ...], _Text | None] = {}


# As long as the methods: a class that is made and forgotten takes its entry along. There are few places.
_KEPT: "weakref.WeakKeyDictionary[FunctionType, _Kept]" = weakref.WeakKeyDictionary()


def inline(
    method: Callable[..., Any], arguments: Sequence[str], result: str, suffix: str, *, asynchronous: bool = False
) -> Inlined | None:
    """The text of ``method`` with ``arguments`` (names) for its parameters, its answer in ``result``; None if unfit.

    Its answer is put into ``result``, or dropped when that is empty. ``suffix`` is added to its globals.
    ``asynchronous``: it is to be awaited, so the text of a coroutine function is wanted, and else never.
    """
    if not isinstance(method, MethodType) or not isinstance(method.__func__, FunctionType) or _watched():
        return None
    function = method.__func__
    if bool(function.__code__.co_flags & inspect.CO_COROUTINE) is not asynchronous:
        return None
    text = _text(function, tuple(arguments), result, suffix)
    if text is None:
        return None
    lines, taken = text
    values = {name: function.__globals__[own] for own, name in taken}
    values[arguments[0]] = method.__self__
    if not _own(function):
        values |= {f"globals{suffix}": function.__globals__, f"absent{suffix}": _absent}
    return Inlined(lines, values, tuple(_variables(function.__code__).values()))


def _own(function: FunctionType) -> bool:
    return str(function.__globals__.get("__name__")).partition(".")[0] == OWN


def _watched() -> bool:
    """Whether somebody follows the lines that are run."""
    monitoring = getattr(sys, "monitoring", None)
    return sys.gettrace() is not None or (
        monitoring is not None
        and any(monitoring.get_tool(tool) for tool in (monitoring.DEBUGGER_ID, monitoring.COVERAGE_ID))
    )


def _absent(name: str) -> Any:
    """What a name means that its module does not have (any more)."""
    if name not in vars(builtins):
        raise NameError(f"name {name!r} is not defined", name=name)
    return getattr(builtins, name)


def _text(function: FunctionType, arguments: tuple[str, ...], result: str, suffix: str) -> _Text | None:
    kept = _KEPT.get(function)
    if kept is None or kept.code is not function.__code__:  # tools that load a module again replace the code
        kept = _KEPT[function] = _Kept(function)
    place = (arguments, result, suffix)
    if place not in kept.texts:
        kept.texts[place] = None
        with suppress(Exception):  # as above
            kept.texts[place] = _written(function, kept, *place)
    return kept.texts[place]


def _written(function: FunctionType, kept: _Kept, arguments: tuple[str, ...], result: str, suffix: str) -> _Text | None:
    code = kept.code
    if kept.tree is None or code.co_argcount != len(arguments):
        return None
    check_bound(kept.tree.body, code.co_varnames, code.co_argcount)
    body = _flow(copy.deepcopy(kept.tree.body), ANSWER if result else "", iter(range(NODES_LIMIT)))
    if sum(1 for statement in body for _ in ast.walk(statement)) > NODES_LIMIT:
        return None
    names = dict(zip(code.co_varnames, arguments, strict=False)) | _variables(code) | {ANSWER: result}
    renaming = _Renaming(names, frozenset(code.co_varnames[: code.co_argcount]), function, suffix)
    module = ast.fix_missing_locations(ast.Module([renaming.visit(statement) for statement in body], []))
    lines = ast.unparse(module).splitlines()
    # Texts over several lines do not survive the indentation; nor is each text the tree that it was made of.
    again = ast.parse("\n".join(["if 1:", *(f" {line}" for line in lines), " pass"])).body[0]
    assert isinstance(again, ast.If)
    if ast.dump(ast.Module(again.body[:-1], [])) != ast.dump(module):
        return None
    return tuple(lines), tuple(renaming.taken.items())


def _variables(code: CodeType) -> dict[str, str]:
    """What its variables are called: the same in all methods, so that the frame stays small."""
    return {name: f"v{number}" for number, name in enumerate(code.co_varnames[code.co_argcount :])}


def _parsed(function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Its tree without a docstring. Raises when the text there is not what ``function`` was made of."""
    code = function.__code__
    source = inspect.getsource(function)
    # Its indentation is kept: texts over several lines are what they are.
    tree = ast.parse(f"if 1:\n{source}" if source[:1].isspace() else source)
    found = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) or found.decorator_list or code.co_freevars:
        raise _UnfitError
    if code.co_cellvars or code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        raise _UnfitError
    if getattr(function, "__builtins__", None) is not vars(builtins):
        raise _UnfitError
    flags = code.co_flags & FUTURE
    # Calls of what was imported have instructions of their own.
    imported = [name for name in code.co_names if _comes_from_elsewhere(function, name)]
    tree.body += [ast.Import([ast.alias(name)]) for name in imported]
    made = compile(ast.fix_missing_locations(tree), code.co_filename, "exec", flags=flags, dont_inherit=True)
    again = next(const for const in made.co_consts if isinstance(const, CodeType))
    if any(repr(getattr(again, name)) != repr(getattr(code, name)) for name in ALIKE):
        raise _UnfitError
    if ast.get_docstring(found) is not None:
        del found.body[0]
    return found


def _comes_from_elsewhere(function: FunctionType, name: str) -> bool:
    value = function.__globals__.get(name)
    return isinstance(value, ModuleType) or getattr(value, "__module__", None) not in (None, function.__module__)


def _flow(statements: Sequence[ast.stmt], result: str, budget: Iterator[int]) -> list[ast.stmt]:
    """``statements`` with an assignment to ``result`` wherever they return; one step of ``budget`` for each.

    What follows a branch that may go on is there twice, and what follows two four times: that has to end.
    """
    done: list[ast.stmt] = []
    for number, statement in enumerate(statements):
        if next(budget, None) is None:
            raise _UnfitError
        rest = statements[number + 1 :]
        if isinstance(statement, ast.Return):
            return [*done, *_answer(statement.value, result)]
        if isinstance(statement, ast.Raise):
            return [*done, statement]
        if not any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            done.append(statement)
        elif isinstance(statement, ast.If):
            taken, other = ([*branch, *copy.deepcopy(rest)] for branch in (statement.body, statement.orelse))
            return [
                *done,
                ast.If(statement.test, _flow(taken, result, budget) or [ast.Pass()], _flow(other, result, budget)),
            ]
        elif isinstance(statement, ast.Try) and not rest and not statement.orelse:
            if any(isinstance(node, ast.Return) for last in statement.finalbody for node in ast.walk(last)):
                raise _UnfitError
            handlers = [
                ast.ExceptHandler(handler.type, handler.name, _flow(handler.body, result, budget) or [ast.Pass()])
                for handler in statement.handlers
            ]
            body = _flow(statement.body, result, budget) or [ast.Pass()]
            return [*done, ast.Try(body, handlers, [], statement.finalbody)]
        else:
            raise _UnfitError
    return [*done, *_answer(None, result)]


def _answer(value: ast.expr | None, result: str) -> list[ast.stmt]:
    if result:
        return [ast.Assign([ast.Name(result, ast.Store())], value or ast.Constant(None))]
    return [] if value is None or isinstance(value, ast.Constant) else [ast.Expr(value)]


class _Renaming(ast.NodeTransformer):
    """Gives variables and globals names of their own. ``taken``: globals, and what they are called."""

    def __init__(self, names: dict[str, str], fixed: frozenset[str], function: FunctionType, suffix: str) -> None:
        self.names = names
        self.fixed = fixed
        self.function = function
        self.suffix = suffix
        self.own = _own(function)
        self.taken: dict[str, str] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (*MAKES_SCOPES, *COMPREHENSIONS, *OTHERS)):
            raise _UnfitError
        return super().generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name in self.fixed:
            raise _UnfitError
        name = self.names[node.name] if node.name else None
        kind = self.visit(node.type) if node.type else None
        return ast.ExceptHandler(kind, name, [self.visit(statement) for statement in node.body])

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            raise _UnfitError  # its name depends on the class
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.names:
            if node.id in self.fixed and not isinstance(node.ctx, ast.Load):
                raise _UnfitError
            return ast.Name(self.names[node.id], node.ctx)
        if node.id in READ_FRAMES:
            raise _UnfitError
        if self.own and node.id in self.function.__globals__:
            return ast.Name(self.taken.setdefault(node.id, f"{node.id}_{self.suffix}"), ast.Load())
        known = node.id in BUILTINS
        if self.own and known:
            return node
        module = ast.Name(f"globals{self.suffix}", ast.Load())
        text = ast.Constant(node.id)
        other = node if known else ast.Call(ast.Name(f"absent{self.suffix}", ast.Load()), [text], [])
        return ast.IfExp(ast.Compare(text, [ast.In()], [module]), ast.Subscript(module, text, ast.Load()), other)
