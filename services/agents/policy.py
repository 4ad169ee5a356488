"""Who may call what: Cedar's answer, and default deny.

The principal is a run at work, `in` the key that it works for, its agent and the version of the model that wrote the
call; the resource is the tool, `in` its owner; the context has the arguments and how often
(`policies/trivium.cedarschema`). Of the policies that apply the strictest decides: forbid, then permit with
`@approval("required")`, then permit. https://docs.cedarpolicy.com
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cedarpy
from pydantic import field_validator

from cluster.settings import Strict
from services.agents import policy_files, policy_values
from services.agents.permits import Ask, Decision
from services.agents.tools import Caller, Tool

_FAILED = re.compile(r"error while evaluating policy `(.+?)`: ", re.DOTALL)


class PolicySettings(Strict):
    """Which policies hold."""

    files: tuple[Path, ...] = ()
    """Files of Cedar policies, absolute; every machine of the cluster has them."""
    default: bool = True
    """Whether those that are shipped (`policies/default.cedar`) hold too."""

    @field_validator("files")
    @classmethod
    def _absolute(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in files:
            if not path.is_absolute():
                raise ValueError(f"{path} depends on where one stands; give an absolute path")
        return files


class Policy:
    """Decides by the policies of some files. Raises `ValueError` for a mistake in one: file, line, and what it is."""

    def __init__(self, settings: PolicySettings) -> None:
        shipped = [policy_files.DEFAULT] if settings.default else []
        self._rules = policy_files.read([*shipped, *settings.files])
        self._set = policy_files.compiled(self._rules)

    def decide(self, ask: Ask) -> Decision:
        tool, caller = ask.tool, ask.invocation.caller
        call = f"{caller.agent} for {caller.principal} to call {tool.name}"
        try:
            arguments = policy_values.record(ask.invocation.arguments, tool.schema)
        except ValueError as error:
            return Decision("deny", (), f"no policy can decide about these arguments: {error}")
        result = cedarpy.is_authorized(_request(ask, arguments), self._set, json.dumps(_entities(tool, caller)))
        if result.decision is cedarpy.Decision.NoDecision:
            return Decision("deny", (), "no policy can decide about these arguments")
        return self._weigh(result, call)

    def _weigh(self, result: cedarpy.AuthzResult, call: str) -> Decision:
        # Cedar passes over a policy that fails, which would let through what a forbid was written against.
        failed = [name[1] if (name := _FAILED.search(e)) else e for e in result.diagnostics.errors]
        if broken := sorted(name for name in failed if name not in self._rules or self._rules[name].forbids):
            return Decision("deny", tuple(broken), f"{', '.join(broken)} could not be evaluated, so it forbids {call}")
        decided = [self._rules[name] for name in sorted(result.diagnostics.reasons)]
        if not result.allowed:
            why = "; ".join(rule.reason for rule in decided if rule.reason)
            names = tuple(rule.name for rule in decided)
            said = f"{', '.join(names)} forbids {call}" if decided else f"no policy permits {call}"
            if failed and not decided:
                said += f" ({', '.join(sorted(failed))} could not be evaluated)"
            return Decision("deny", names, f"{said}: {why}" if why else said)
        if strict := [rule for rule in decided if rule.approval]:
            why = "; ".join(rule.reason for rule in strict if rule.reason)
            names = tuple(rule.name for rule in strict)
            said = f"{', '.join(names)} wants a person to approve it"
            return Decision("ask", names, f"{said}: {why}" if why else said)
        names = tuple(rule.name for rule in decided)
        return Decision("permit", names, f"{', '.join(names)} permits it")


def _request(ask: Ask, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "principal": _uid("Caller", ask.invocation.caller.run),
        "action": _uid("Action", "call"),
        "resource": _uid("Tool", ask.tool.name),
        "context": {
            "arguments": arguments,
            "calls_in_run": ask.calls_in_run,
            "calls_last_minute": ask.calls_last_minute,
        },
    }


def _entities(tool: Tool, caller: Caller) -> list[dict[str, Any]]:
    model = caller.version.partition("@")[0]
    groups = [_uid("Key", caller.principal), _uid("Agent", caller.agent)]
    run = {
        "key": caller.principal,
        "agent": caller.agent,
        "version": caller.version,
        "scopes": list(caller.scopes),
    }
    what = {"name": tool.name, "owner": tool.owner, "version": tool.version, "idempotent": tool.idempotent}
    return [
        _entity(_uid("Caller", caller.run), run, [*groups, *([_uid("Version", caller.version)] if model else [])]),
        *([_entity(_uid("Version", caller.version), {}, [_uid("Model", model)])] if model else []),
        _entity(_uid("Tool", tool.name), what, [_uid("Owner", tool.owner)]),
    ]


def _entity(uid: dict[str, str], attributes: dict[str, Any], parents: list[dict[str, str]]) -> dict[str, Any]:
    return {"uid": uid, "attrs": attributes, "parents": parents}


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}
