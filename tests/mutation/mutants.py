"""Source text in, mutants out: each is the same module with one small change.

The changes are those of mutmut (https://mutmut.readthedocs.io) and a few that it lacks. mutmut itself is not used to
run them: it leaves out module constants, properties and context managers, where this project has some of its bounds.
"""

from __future__ import annotations

import ast
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

_Change = Callable[[cst.CSTNode], Iterable[cst.CSTNode]]

_OPPOSITES = {"max": "min", "min": "max", "mean": "max", "all": "any", "any": "all", "sum": "max"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: The file, from the root of the repository.
        where: The function or class that holds the change, ``"<module>"`` outside of them.
        change: The changed lines before and after, white space collapsed: ``"x < y -> x <= y"``.
        operator: The kind of change.
        source: The whole mutated text.
    """

    file: str
    where: str
    change: str
    operator: str
    source: str

    @property
    def name(self) -> str:
        """What identifies a mutant as long as its lines stay the same."""
        return f"{self.file}: {self.where}: {self.change}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of the text; those that mean the same to Python are left out."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
    visitor = _Visitor()
    wrapper.module.visit(visitor)
    lines = source.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    seen = {_meaning(source)}
    names: dict[str, int] = {}
    found = []
    for where, operator, node, mutated in visitor.changes:
        span = spans[node]
        start, end = (starts[place.line - 1] + place.column for place in (span.start, span.end))
        text = source[:start] + wrapper.module.code_for_node(mutated) + source[end:]
        meaning = _meaning(text)
        if meaning is None or meaning in seen:
            continue
        seen.add(meaning)
        change = _change(source, text)
        count = names[f"{where}: {change}"] = names.get(f"{where}: {change}", 0) + 1
        if count > 1:
            change = f"{change} [{count}]"
        found.append(Mutant(file, where, change, operator, text))
    return found


def _meaning(source: str) -> str | None:
    """Return the syntax tree as text, or None where the source is not Python."""
    try:
        tree = ast.parse(source)
        compile(tree, "<mutant>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return ast.dump(tree)


def _change(before: str, after: str) -> str:
    old, new = ([" ".join(line.split()) for line in text.splitlines()] for text in (before, after))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    removed, added = (" ".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    return f"{removed} -> {added}"


if TYPE_CHECKING:
    _Base = object  # libcst is not in the environment of the checks: mypy does not know what it has
else:
    _Base = cst.CSTVisitor


class _Visitor(_Base):
    """Collect changes: (where, operator, node, mutated node)."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, cst.CSTNode, cst.CSTNode]] = []
        self._scope: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_left_alone(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scope.append(node.name.value)
        where = ".".join(self._scope) or "<module>"
        for operator, change in _OPERATORS:
            self.changes += [(where, operator, node, mutated) for mutated in change(node)]
        if isinstance(node, cst.If | cst.While | cst.CompIf):
            self.changes.append((where, "negate_condition", node.test, _negated(node.test)))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._scope.pop()


def _is_left_alone(node: cst.CSTNode) -> bool:
    """Whether a node and all below it keep as they are: what does not run, and what only tools read."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
        return True
    if m.matches(node, m.Assign(targets=[m.AssignTarget(m.Name("__all__"))])):
        return True
    if m.matches(node, m.Call(func=m.Name("len") | m.Name("isinstance"))):  # mutmut: None there is an error at once
        return True
    if m.matches(node, m.Call(func=m.Name("float")) | m.Arg(keyword=m.Name("encoding"), value=m.SimpleString())):
        return True  # to Python "NAN" is "nan", and "UTF-8" is "utf-8"
    return m.matches(node, m.SimpleString()) and " " in node.value.strip("\"'")


def _by_mutmut(kind: type, change: _Change) -> _Change:
    return lambda node: list(change(node)) if isinstance(node, kind) else []


def _drop_statement(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Leave out a call that is a statement, and a raise."""
    if m.matches(node, m.Expr(m.Call()) | m.Raise()):
        yield cst.Pass()


def _negated(condition: cst.BaseExpression) -> cst.CSTNode:
    return cst.UnaryOperation(cst.Not(), condition.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()]))


def _swap_reduction(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Take the smallest for the largest, the largest for the mean or the sum, any for all; and the other way."""
    if isinstance(node, cst.Call):
        name = node.func if isinstance(node.func, cst.Name) else getattr(node.func, "attr", None)
        if name is not None and name.value in _OPPOSITES:
            yield node.with_deep_changes(name, value=_OPPOSITES[name.value])


def _drop_entry(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Leave one entry out of a dict display."""
    if isinstance(node, cst.Dict) and len(node.elements) > 1:
        for place in range(len(node.elements)):
            yield node.with_changes(elements=[*node.elements[:place], *node.elements[place + 1 :]])


_OPERATORS: list[tuple[str, _Change]] = [
    *((change.__name__.removeprefix("operator_"), _by_mutmut(kind, change)) for kind, change in mutation_operators),
    ("drop_statement", _drop_statement),
    ("swap_reduction", _swap_reduction),
    ("drop_entry", _drop_entry),
]
