"""Writes the text of a small method into a generated function, so that calling it costs no frame.

A frame is a third of what a gate costs. So the text of ``enter`` and ``exit`` is put where their call would stand::

    def enter(self, call):                      v0 = gate4.in_flight
        in_flight = self.in_flight              if v0 < gate4._open:
        if in_flight < self._open:                  gate4.in_flight = v0 + 1
            self.in_flight = in_flight + 1          token4 = True
            return True                         else:
        return self._otherwise(call)                token4 = gate4._otherwise(call)

Nothing depends on it: a method whose text is not there, is not the text it was compiled from (the file may have
been replaced under the running process), or does not fit the rules below, is called.

It fits when it is a plain function of at most ``NODES_LIMIT`` nodes, without functions or comprehensions inside,
without ``super()``, and without a ``return`` inside of a loop or a ``with``. Its globals are taken as they are when
the generated function is made.
"""

import __future__

import ast
import builtins
import copy
import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

NODES_LIMIT: Final = 400
"""Nodes of the syntax tree that is put in; what follows a branch with a ``return`` is there once for each branch."""
METHODS_LIMIT: Final = 1024
"""Methods whose text is kept."""
MAKES_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp)
OTHERS: Final = (ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Import, ast.ImportFrom, ast.NamedExpr)

ALIKE: Final = ("co_code", "co_names", "co_varnames", "co_argcount", "co_consts")
"""What code has in common with the text it was made of."""
FUTURE: Final = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


class Inlined(NamedTuple):
    """``lines`` for a generated function, the ``values`` of the names in them, and the ``variables`` that they set."""

    lines: tuple[str, ...]
    values: dict[str, Any]
    variables: tuple[str, ...]


class _UnfitError(Exception):
    """The method has to be called."""


def inline(method: Callable[..., Any], arguments: Sequence[str], result: str, suffix: str) -> Inlined | None:
    """The text of ``method`` with ``arguments`` (names) for its parameters, its answer in ``result``; None if unfit.

    Its answer is put into ``result``, or dropped when that is empty. ``suffix`` is added to its globals.
    The text of a coroutine function fits into another one only.
    """
    if not isinstance(method, MethodType) or not isinstance(method.__func__, FunctionType):
        return None
    function = method.__func__
    text = _text(function, tuple(arguments), result, suffix)
    if text is None:
        return None
    lines, taken = text
    values = {name: function.__globals__[own] for own, name in taken}
    return Inlined(lines, {arguments[0]: method.__self__, **values}, tuple(_variables(function.__code__).values()))


@lru_cache(METHODS_LIMIT)
def _text(
    function: FunctionType, arguments: tuple[str, ...], result: str, suffix: str
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]] | None:
    try:
        body = _flow(copy.deepcopy(_parsed(function).body), result)
        code = function.__code__
        if result in code.co_varnames or code.co_argcount != len(arguments):
            return None
        names = dict(zip(code.co_varnames, arguments, strict=False))
        names |= _variables(code) | {result: result}
        renaming = _Renaming(names, frozenset(code.co_varnames[: code.co_argcount]), function, suffix)
        renamed = [renaming.visit(statement) for statement in body]
    except Exception:  # whatever is wrong with the text: the method itself can be called
        return None
    module = ast.fix_missing_locations(ast.Module(renamed, []))
    if sum(1 for _ in ast.walk(module)) > NODES_LIMIT:
        return None
    return tuple(ast.unparse(module).splitlines()), tuple(renaming.taken.items())


def _variables(code: CodeType) -> dict[str, str]:
    """What its variables are called: the same in all methods, so that the frame stays small."""
    return {name: f"v{number}" for number, name in enumerate(code.co_varnames[code.co_argcount :])}


@lru_cache(METHODS_LIMIT)
def _parsed(function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Its tree without a docstring. Raises when the text there is not what ``function`` was made of."""
    code = function.__code__
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    found = tree.body[0]
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) or found.decorator_list or code.co_freevars:
        raise _UnfitError
    if code.co_cellvars or code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
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


def _flow(statements: Sequence[ast.stmt], result: str) -> list[ast.stmt]:
    """``statements`` with an assignment to ``result`` wherever they return."""
    done: list[ast.stmt] = []
    for number, statement in enumerate(statements):
        rest = statements[number + 1 :]
        if isinstance(statement, ast.Return):
            return [*done, *_answer(statement.value, result)]
        if isinstance(statement, ast.Raise):
            return [*done, statement]
        if not any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            done.append(statement)
        elif isinstance(statement, ast.If):
            taken, other = ([*branch, *copy.deepcopy(rest)] for branch in (statement.body, statement.orelse))
            return [*done, ast.If(statement.test, _flow(taken, result) or [ast.Pass()], _flow(other, result))]
        elif isinstance(statement, ast.Try) and not rest and not statement.orelse:
            if any(isinstance(node, ast.Return) for last in statement.finalbody for node in ast.walk(last)):
                raise _UnfitError
            handlers = [
                ast.ExceptHandler(handler.type, handler.name, _flow(handler.body, result) or [ast.Pass()])
                for handler in statement.handlers
            ]
            body = _flow(statement.body, result) or [ast.Pass()]
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
        self.taken: dict[str, str] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (*MAKES_SCOPES, *COMPREHENSIONS, *OTHERS)):
            raise _UnfitError
        return super().generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
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
        if node.id == "super":
            raise _UnfitError
        if node.id in self.function.__globals__:
            name = self.taken.setdefault(node.id, f"{node.id}_{self.suffix}")
            return ast.Name(name, ast.Load())
        if not hasattr(builtins, node.id):
            raise _UnfitError
        return node
