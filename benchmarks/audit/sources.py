"""Modules of the product as trees of syntax, with what every rule asks of them.

In: the repository's root. Out: one `Module` a file: its tree, its lines, the function around each
node, the loops around each node. Nothing is imported or run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: What is shipped. Twins, generators of test data and kernels are left out: the first two are
#: plain on purpose, and the last are compiled.
PACKAGES = ("arc", "ingest")
NOT_HOT = ("ingest/testing/", "ingest/kernels/")

MODULE = "<module>"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        file: Below the root, with slashes.
        lines: Of its text.
        tree: Of its syntax.
        parents: Of every node but the tree itself.
        calls: Every call.
    """

    file: str
    lines: list[str]
    tree: ast.Module
    parents: dict[ast.AST, ast.AST]
    calls: list[ast.Call]

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """What is around a node, the nearest first."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function(self, node: ast.AST) -> str:
        """Qualified name of the function around a node, without `<locals>`."""
        around = [node, *self.ancestors(node)]
        names = [
            each.name
            for each in around
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        return ".".join(reversed(names)) or MODULE

    def in_loop(self, node: ast.AST) -> bool:
        """Whether a node is evaluated once a turn of a loop of its own function.

        The iterable of a loop is evaluated once; so is that of the first loop of a comprehension.
        A function that is defined in a loop is not called by that.
        """
        inner = node
        for outer in self.ancestors(node):
            if isinstance(outer, _FUNCTIONS):
                return False
            if isinstance(outer, ast.For | ast.AsyncFor) and inner is not outer.iter:
                return inner not in outer.orelse
            if isinstance(outer, ast.While):
                return inner not in outer.orelse
            if isinstance(outer, _COMPREHENSIONS) and not _is_first_iterable(inner, node, outer):
                return True
            inner = outer
        return False

    def line(self, number: int) -> str:
        """A line, stripped, counted from 1."""
        return self.lines[number - 1].strip()


def _is_first_iterable(inner: ast.AST, node: ast.AST, outer: ast.AST) -> bool:
    """Whether a node below a comprehension is in what its first loop goes over."""
    generators: list[ast.comprehension] = getattr(outer, "generators", [])
    first = generators[0]
    return inner is first and any(node is below for below in ast.walk(first.iter))


def parse(text: str, file: str) -> Module:
    """A module of its text."""
    tree = ast.parse(text, file)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    calls = [node for node in parents if isinstance(node, ast.Call)]
    return Module(file, text.splitlines(), tree, parents, calls)


def modules(root: Path) -> list[Module]:
    """Every module of the product, in the order of their names."""
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    names = [path.relative_to(root).as_posix() for path in files]
    return [
        parse(path.read_text(encoding="utf-8"), name)
        for path, name in zip(files, names, strict=True)
        if not name.startswith(NOT_HOT) and not name.endswith("_slow.py")
    ]


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def method(node: ast.Call) -> str:
    """Name of the method that is called, whatever it is called on; "" when it is no method."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""
