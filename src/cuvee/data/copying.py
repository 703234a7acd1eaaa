"""Which templates do nothing with contents but copy them, so that their text is known without rendering.

Such a template's text is a function of the roles with the contents put in: it never asks anything of a content but
whether there is one, joins it to nothing but other text, and writes it as it is, or stripped. This is seen in the
template's syntax tree, where every expression is one of three: made of `CLEAN` values, which the roles and their number
decide; a content's `TEXT`, alone or joined to text; or a `BOX`, which contents are in: the messages, or one of them.
What is not known to keep to this counts as not keeping to it. It holds for messages of a role and a content, and
without tools.
"""

from __future__ import annotations

from enum import IntEnum

import jinja2
from jinja2 import nodes

STRIPPING = ("|trim", ".strip", ".lstrip", ".rstrip")
LENGTHS = ("|length", "|count")
KNOWN_OF_ANY = ("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "boolean", "number")
"""Tests whose result is the same for all contents, which are texts, or for all messages."""


class Kind(IntEnum):
    """What an expression may hold; of two that are joined, the higher one counts."""

    CLEAN = 0
    TEXT = 1
    BOX = 2


class _Looks(Exception):
    """The template may look at a content."""


class Flow:
    """Where contents go in a template.

    Attributes:
        copies: whether the text is a function of the roles with the contents put in.
        tidy: whether that only holds for contents that are not empty and have no white space at their ends.
    """

    def __init__(self, environment: jinja2.Environment, text: str) -> None:
        self.tidy = False
        self._names: dict[str, Kind] = {"messages": Kind.BOX}
        try:
            tree = environment.parse(text)
            # A loop's later rounds see what its earlier ones assigned.
            while True:
                before = dict(self._names)
                self._statements(tree.body)
                if self._names == before:
                    break
            self.copies = True
        except (_Looks, jinja2.TemplateError):
            self.copies = False

    def _statements(self, body: list[nodes.Node]) -> None:
        for node in body:
            self._statement(node)

    def _statement(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Output):
            for shown in node.nodes:
                _refuse(self._kind(shown) is Kind.BOX)
        elif isinstance(node, nodes.If):
            self._condition(node.test)
            self._statements([*node.body, *node.elif_, *node.else_])
        elif isinstance(node, nodes.For):
            self._for(node)
        elif isinstance(node, nodes.Assign):
            self._assign(node.target, self._kind(node.node))
        elif isinstance(node, nodes.Scope | nodes.ScopedEvalContextModifier):
            self._statements(node.body)
        else:
            _refuse(not isinstance(node, nodes.Continue | nodes.Break))

    def _for(self, node: nodes.For) -> None:
        kind = self._kind(node.iter)
        _refuse(kind is Kind.TEXT or node.recursive)
        self._assign(node.target, kind)
        if node.test is not None:
            self._condition(node.test)
        self._statements([*node.body, *node.else_])

    def _assign(self, target: nodes.Node, kind: Kind) -> None:
        if not isinstance(target, nodes.Name):
            # Several targets, or a field of a namespace.
            _refuse(kind is not Kind.CLEAN)
            return
        self._names[target.name] = max(kind, self._names.get(target.name, Kind.CLEAN))

    def _condition(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.And | nodes.Or | nodes.Not):
            for child in node.iter_child_nodes():
                self._condition(child)
        else:
            kind = self._kind(node)
            _refuse(kind is Kind.BOX)
            self.tidy |= kind is Kind.TEXT

    def _clean(self, node: nodes.Node) -> None:
        _refuse(self._kind(node) is not Kind.CLEAN)

    def _kind(self, node: nodes.Node) -> Kind:
        if isinstance(node, nodes.Name):
            return self._names.get(node.name, Kind.CLEAN)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self._part(node)
        if isinstance(node, nodes.Add | nodes.Concat):
            return self._joined(list(node.iter_child_nodes()))
        if isinstance(node, nodes.CondExpr):
            self._condition(node.test)
            _refuse(node.expr2 is None)
            assert node.expr2 is not None
            return max(self._kind(node.expr1), self._kind(node.expr2))
        if isinstance(node, nodes.Test) and node.name in KNOWN_OF_ANY:
            self._kind(node.node)
            return Kind.CLEAN
        if isinstance(node, nodes.Filter | nodes.Call):
            return self._called(node)
        if isinstance(node, nodes.Not):
            self._condition(node.node)
            return Kind.CLEAN
        if isinstance(node, nodes.Compare) and _has_key(node):
            _refuse(self._kind(node.ops[0].expr) is Kind.TEXT)
            return Kind.CLEAN
        for child in node.iter_child_nodes():
            self._clean(child)
        return Kind.CLEAN

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> Kind:
        kind = self._kind(node.node)
        if isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice) or not isinstance(node.arg, nodes.Const):
                self._clean(node.arg)
                return self._held(kind)
            name = node.arg.value
        else:
            name = node.attr
        if name in ("previtem", "nextitem"):
            return Kind.BOX
        if kind is not Kind.BOX or isinstance(name, int):
            return self._held(kind)
        _refuse(hasattr(dict, str(name)) or hasattr(list, str(name)))
        return Kind.TEXT if name == "content" else Kind.CLEAN

    def _held(self, kind: Kind) -> Kind:
        _refuse(kind is Kind.TEXT)
        return kind

    def _joined(self, parts: list[nodes.Node]) -> Kind:
        kind = max(map(self._kind, parts))
        _refuse(kind is Kind.BOX)
        return kind

    def _called(self, node: nodes.Filter | nodes.Call) -> Kind:
        given = list(node.iter_child_nodes())
        name, what = _named(node)
        kind = self._kind(what) if what is not None and len(given) == 1 else Kind.CLEAN
        if kind is Kind.TEXT and name in STRIPPING and what is not None:
            return self._stripped(what)
        if kind is Kind.BOX and name in LENGTHS:
            return Kind.CLEAN
        for child in given:
            self._clean(child)
        return Kind.CLEAN

    def _stripped(self, what: nodes.Node) -> Kind:
        # Of a content alone: joined to other text, it may be that text's end that goes.
        _refuse(not isinstance(what, nodes.Getattr | nodes.Getitem))
        self.tidy = True
        return Kind.TEXT


def _named(node: nodes.Filter | nodes.Call) -> tuple[str, nodes.Expr | None]:
    """Return a filter's name, such as ``|trim``, or a method's, such as ``.strip``, and what it is applied to."""
    if isinstance(node, nodes.Filter):
        return f"|{node.name}", node.node
    if isinstance(node.node, nodes.Getattr):
        return f".{node.node.attr}", node.node.node
    return "", None


def _has_key(node: nodes.Compare) -> bool:
    """Say whether it asks for a key of a message, such as ``'tool_calls' in message``."""
    only = len(node.ops) == 1 and node.ops[0].op in ("in", "notin")
    return only and isinstance(node.expr, nodes.Const) and isinstance(node.ops[0].expr, nodes.Name)


def _refuse(looks: bool) -> None:
    if looks:
        raise _Looks
