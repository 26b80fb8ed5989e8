"""Which templates and patterns are sure to be quick, whatever they are given.

Most are: text with fields in it, and patterns that have hardly a choice. ``limited``
works on those where it is, and on all others in its process.
"""

from __future__ import annotations

import re._constants as op  # type: ignore[import-not-found]
import re._parser as patterns  # type: ignore[import-not-found]
from collections.abc import Iterable
from typing import Any

from jinja2 import nodes

LONGEST = 4096
"""Characters of a text that is matched here, and of a template."""
_MOST = 4 * LONGEST
"""Ways in which a pattern may go on from one place of such a text."""
_PLAIN = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.AT)
_NODES = (
    nodes.And,
    nodes.Compare,
    nodes.Concat,
    nodes.CondExpr,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.If,
    nodes.Name,
    nodes.Not,
    nodes.Operand,
    nodes.Or,
    nodes.Output,
    nodes.Template,
    nodes.TemplateData,
    nodes.Test,
)
_FILTERS = {"capitalize", "first", "last", "length", "lower", "string", "trim", "upper"}
_METHODS = {"capitalize", "lower", "lstrip", "rstrip", "strip", "title", "upper"}


def is_quick_template(tree: nodes.Template) -> bool:
    """Tell whether a template only writes and compares fields.

    No loops, no arithmetic, no calls but of a few methods: the text is at most as long
    as the template times the fields.
    """
    return all(map(_is_quick_node, [tree, *tree.find_all(nodes.Node)]))


def _is_quick_node(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        return node.name in _FILTERS
    if isinstance(node, nodes.Call):
        called = node.node
        return isinstance(called, nodes.Getattr) and called.attr in _METHODS
    return type(node) in _NODES


def is_quick_pattern(source: str) -> bool:
    """Tell whether no text of up to ``LONGEST`` characters keeps a pattern busy.

    Raises:
        re.error: It is no pattern.
    """
    return _ways(patterns.parse(source)) <= _MOST


def _ways(items: Iterable[tuple[Any, Any]]) -> int:
    """Bound the ways in which these items match from one place on."""
    total = 1
    for code, argument in items:
        if code in _PLAIN:
            continue
        if code is op.SUBPATTERN:
            total *= _ways(argument[3])
        elif code is op.BRANCH:
            total *= sum(_ways(branch) for branch in argument[1])
        elif code in (op.MAX_REPEAT, op.MIN_REPEAT):
            total *= _ways_of_repeat(*argument)
        else:  # looks around or back
            return _MOST + 1
        if total > _MOST:
            return total
    return total


def _ways_of_repeat(low: int, high: Any, body: Any) -> int:
    each = _ways(body)
    if each == 1 and len(body) == 1 and body[0][0] in _PLAIN:
        return int(min(high, LONGEST)) - min(low, LONGEST) + 1
    if high > 8:  # MAXREPEAT is larger than any number
        return _MOST + 1
    return int(high - low + 1) * each ** int(high)
