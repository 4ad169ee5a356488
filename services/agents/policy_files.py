"""Policies as their files have them: read, checked against the schema, and each with a name of its own.

Cedar says what is wrong but not where, so each policy is parsed by itself. Its schema cannot know every tool's
arguments: what speaks of `context.arguments` is left out of the check, all else (a misspelt attribute, an entity that
does not exist) is found at start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cedarpy
from cedarpy import pst

FOLDER = Path(__file__).parent / "policies"
DEFAULT = FOLDER / "default.cedar"
ANNOTATIONS = frozenset({"id", "approval", "reason"})

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_SPACE = re.compile(r"(?:\s|//[^\n]*)*")


@dataclass(frozen=True)
class Rule:
    """One policy."""

    name: str
    """Its `@id`, or `FILE#N`."""
    forbids: bool
    approval: bool
    """Whether a person must approve what it permits."""
    reason: str
    node: pst.Template


def read(files: list[Path]) -> dict[str, Rule]:
    """All policies of these files by name. Raises `ValueError`: file, line, and what is wrong there."""
    rules: dict[str, Rule] = {}
    for path in files:
        try:
            text = path.read_text()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); name a file of Cedar policies") from None
        for number, (line, statement) in enumerate(_statements(text), 1):
            try:
                rule = _rule(statement, f"{path.name}#{number}")
                if rule.name in rules:
                    raise ValueError(f"another policy is called {rule.name} already")
                _check(rule)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            rules[rule.name] = rule
    return rules


def compiled(rules: dict[str, Rule]) -> cedarpy.PolicySet:
    """As Cedar evaluates them, under their names."""
    return cedarpy.PolicySet.from_pst(_set({name: replace(rule.node, id=name) for name, rule in rules.items()}))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each policy with the line on which it begins."""
    ends = [token.end() for token in _TOKEN.finditer(text) if token[0] == ";"]
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        begin = _SPACE.match(text, start, end).end()  # type: ignore[union-attr]
        if begin < end:
            yield text.count("\n", 0, begin) + 1, text[begin:end]


def _rule(statement: str, otherwise: str) -> Rule:
    parsed = cedarpy.PolicySet.from_str(statement).to_pst()
    if len(parsed.static_policies) != 1:
        raise ValueError("a template (?principal, ?resource) has nobody to fill it here; write it out")
    (node,) = parsed.static_policies.values()
    if unknown := sorted(node.annotations.keys() - ANNOTATIONS):
        raise ValueError(f"there is no annotation @{unknown[0]}; there are: @{', @'.join(sorted(ANNOTATIONS))}")
    approval, forbids = node.annotations.get("approval"), node.effect == "forbid"
    if approval not in (None, "required") or (approval and forbids):
        raise ValueError('@approval is for a permit, and says "required"')
    name = node.annotations.get("id") or otherwise
    return Rule(name, forbids, approval is not None, node.annotations.get("reason", ""), node)


def _check(rule: Rule) -> None:
    clauses = tuple(replace(clause, expr=_known(clause.expr)) for clause in rule.node.clauses)
    text = str(cedarpy.PolicySet.from_pst(_set({"it": replace(rule.node, id="it", clauses=clauses)})))
    result = cedarpy.validate_policies(text, _schema())
    if not result:
        raise ValueError(re.sub(r"^for policy `\w+`, ", "", result.errors[0].error))


@cache
def _schema() -> cedarpy.Schema:
    # `unknown` stands for whatever a condition says of arguments.
    text = (FOLDER / "trivium.cedarschema").read_text().replace("arguments: {},", "unknown: Bool,")
    return cedarpy.Schema.from_str(text)


def _known(condition: pst.Expr) -> pst.Expr:
    """A condition without what it says of arguments."""
    match condition:
        case pst.BinaryOp(op="and" | "or"):
            return replace(condition, left=_known(condition.left), right=_known(condition.right))
        case pst.UnaryOp(op="not"):
            return replace(condition, arg=_known(condition.arg))
        case _ if _speaks_of_arguments(condition):
            return pst.GetAttr(pst.Var("context"), "unknown")
    return condition


def _speaks_of_arguments(node: Any) -> bool:
    match node:
        case pst.GetAttr(base=pst.Var(name="context"), attr="arguments"):
            return True
        case pst.HasAttr(base=pst.Var(name="context"), attrs=("arguments", *_)):
            return True
        case tuple():
            return any(_speaks_of_arguments(each) for each in node)
        case dict():
            return any(_speaks_of_arguments(each) for each in node.values())
        case _ if is_dataclass(node):
            return any(_speaks_of_arguments(getattr(node, each.name)) for each in fields(node))
    return False


def _set(policies: dict[str, pst.Template]) -> pst.PolicySet:
    return pst.PolicySet(templates=pst.FrozenMap(), static_policies=pst.FrozenMap(policies), template_links=())
