"""Whether each variable of a function is certainly set where it is read.

Text that is put into another function shares its variables with others. One that is read before it is set raises
there too when it is called, but in the other function it may still have a value, of somebody else. So what is not
certain is refused. The analysis only knows what it is told: conditions may be true or false, loops may not run, an
exception may come anywhere in a block.
"""

import ast
from collections.abc import Sequence
from typing import TypeAlias

Names: TypeAlias = frozenset[str]


class UncertainError(Exception):
    """A variable may be read before it is set."""


def check_bound(body: Sequence[ast.stmt], variables: Sequence[str], parameters: int) -> None:
    """``UncertainError`` when one of ``variables``, of which the first are ``parameters``, may be read unset."""
    _Analysis(frozenset(variables)).block(body, frozenset(variables[:parameters]))


class _Analysis:
    """Each method returns what is set afterwards; everything is, where nothing comes after it."""

    def __init__(self, variables: Names) -> None:
        self.variables = variables

    def block(self, statements: Sequence[ast.stmt], bound: Names) -> Names:
        for statement in statements:
            bound = self.statement(statement, bound)
        return bound

    def statement(self, node: ast.stmt, bound: Names) -> Names:
        kept = bound - _deleted(node)  # what is set wherever it is left
        match node:
            case ast.If():
                self.read(node.test, bound)
                return self.block(node.body, bound) & self.block(node.orelse, bound)
            case ast.For() | ast.AsyncFor():
                self.read(node.iter, bound)
                self.block(node.body, self.store(node.target, kept))
                self.block(node.orelse, kept)
                return kept
            case ast.While():
                self.read(node.test, kept)
                self.block(node.body, kept)
                self.block(node.orelse, kept)
                return kept
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.read(item.context_expr, bound)
                    bound = self.store(item.optional_vars, bound)
                self.block(node.body, bound)
                return kept  # it may swallow an exception
            case ast.Try() | ast.TryStar():
                return self.tried(node, bound)
            case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
                self.read(node, bound)
                return self.variables
            case ast.AugAssign():
                self.read(node.value, bound)
                if isinstance(node.target, ast.Name):
                    self.certain(node.target.id, bound)
                return self.store(node.target, bound)
            case ast.AnnAssign():
                if node.value is None:
                    return bound
                self.read(node.value, bound)
                return self.store(node.target, bound)
            case ast.Assign():
                self.read(node.value, bound)
                for target in node.targets:
                    bound = self.store(target, bound)
                return bound
            case ast.Delete():
                for target in node.targets:
                    self.read(target, bound)
                return bound - _named(node, ast.Del)
            case ast.Expr() | ast.Assert() | ast.Pass():
                self.read(node, bound)
                return bound
        raise UncertainError(type(node).__name__)

    def tried(self, node: ast.Try | ast.TryStar, bound: Names) -> Names:
        after = self.block(node.orelse, self.block(node.body, bound))
        kept = bound - _deleted(*node.body)
        for handler in node.handlers:
            if handler.type is not None:
                self.read(handler.type, kept)
            name = frozenset([handler.name] if handler.name else [])
            after &= self.block(handler.body, kept | name) - name
        self.block(node.finalbody, bound - _deleted(*node.body, *node.handlers, *node.orelse))
        return self.block(node.finalbody, after)

    def store(self, target: ast.expr | None, bound: Names) -> Names:
        if target is None:
            return bound
        self.read(target, bound)
        return bound | _named(target, ast.Store)

    def read(self, node: ast.AST, bound: Names) -> None:
        for name in _named(node, ast.Load) | _named(node, ast.Del):
            self.certain(name, bound)

    def certain(self, name: str, bound: Names) -> None:
        if name in self.variables and name not in bound:
            raise UncertainError(name)


def _named(node: ast.AST, context: type[ast.expr_context]) -> Names:
    return frozenset(
        found.id for found in ast.walk(node) if isinstance(found, ast.Name) and isinstance(found.ctx, context)
    )


def _deleted(*nodes: ast.AST) -> Names:
    """Also what a handler calls its exception: it is gone at the end."""
    found = [part for node in nodes for part in ast.walk(node)]
    caught = {part.name for part in found if isinstance(part, ast.ExceptHandler) and part.name is not None}
    return frozenset(
        caught | {part.id for part in found if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Del)}
    )
