"""The only writer of the decision log, and its door: stage, canary, promote, reject, roll back (`/admin/rollout`).

A decision is written first and then told to the replicas, which would find it by themselves half a second later. The
order of a promotion keeps the one promise that matters, that an alias never points to a version which a replica lacks:

    stage      append, then every replica loads the version and says so; one that cannot: append reject, answer 409
    canary     stage if need be, hear from every replica that it holds the version, append, tell them
    promote    the same
    rollback   hear that none lacks the former champion (`Rollout.wanted` keeps it), append, tell them
    publish    what a cycle asks for: canary or promote, as the settings say

A version with full weights is held by an application of its own, which is brought up first (`hosting.py`).
`append` writes what is legal (`legal.py`), `Rollouts` is the Serve deployment.
It is also the controller of the canaries: every second it reads what the log has of them (`evidence.py`) and does what
`canary.decide` says. It remembers nothing that is not in one of the two logs, so it may die at any time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Request
from pydantic import Field
from ray import serve

from cluster import durable, telemetry
from cluster.admin import Unavailable, admin_api
from cluster.decisions import Alias, Rollout, fold, path, read, seal
from cluster.log import Log, LogSettings
from cluster.priority import give_way
from cluster.records import Decision, Evidence, Verdict
from cluster.registry import Registry, check_name
from cluster.settings import Settings, Strict
from services.canary import CanarySettings, Hold, Promote, RollBack, Widen, decide
from services.evidence import Witness
from services.hosting import Hosts
from services.legal import Action, Draft, admit, settled
from services.replicas import CannotLoad, ask, hosts, lacking

logger = logging.getLogger(__name__)

STAGE_S = 120.0
"""Longest that staging waits for replicas; a killed one is back in about 51 s."""
TELL_S = 10.0
"""Longest that a decision waits for its acknowledgements once nothing needs loading (they take 4 ms)."""
MIRROR_S = 60.0
"""How often MLflow is compared with the decision log when nothing happens."""
REST = 20
"""Looking at a canary may take one part in so many of the controller's time, however long its traffic has grown."""
CONTROLLER = "rollout"
"""Who asks where live traffic decides."""


# Writing: the fence


def append(state: Path, draft: Draft) -> Decision:
    """Write the decision that a request leads to, durably, and return it; the earlier one if it is settled already.

    Decisions are files that are created exclusively, so a writer that lost the race for a number reads the log again
    and decides anew on the state that the winner made. Raises `ValueError` if the request is not legal (any more).
    """
    durable.make_folder(state / "rollout")
    while True:
        decisions = read(state)
        if (earlier := settled(decisions, draft)) is not None:
            return earlier
        decision = seal(admit(fold(decisions), draft, time.time()), decisions[-1] if decisions else None)
        try:
            durable.create(path(state, decision.sequence), decision.model_dump_json(indent=1).encode())
        except FileExistsError:
            continue
        return decision


# Serving: the door, and the controller behind it

api = admin_api()


class Order(Strict):
    """Body of a request for a decision."""

    alias: str
    version: str | None = None
    base: str | None = None
    reason: str = ""
    verdict: Verdict | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of a canary; the first of the settings' shares if left out."""
    shadow: bool = False


# On the head's node: Serve's configuration API listens there, and on loopback.
@serve.deployment(
    name="rollout",
    num_replicas=1,
    ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
)
@serve.ingress(api)
class Rollouts:
    """Answers `/admin/rollout`. Two of it can run for a moment, while Serve replaces one: `append` keeps them apart."""

    async def __init__(self, settings: CanarySettings) -> None:  # type: ignore[misc]  # Serve awaits it
        self._settings = settings
        self._state = Settings.from_environment().state
        self._log = Log(self._state / "log", LogSettings())
        self._registry = Registry(Settings.from_environment())
        self._news = threading.Event()
        self._rollout = Rollout()
        self._witnesses: dict[str, Witness] = {}
        self._seen: dict[str, Hold | Widen | Promote | RollBack] = {}
        threading.Thread(target=self._mirror, name="mlflow-mirror", daemon=True).start()
        self._hosts = Hosts(Settings.from_environment(), self._registry)
        self._controller = asyncio.create_task(self._control())
        self._hosting = asyncio.create_task(self._hosts.follow(settings.look_every_s))

    @api.get("/")
    async def show(self) -> dict[str, Any]:
        """Aliases, and what each replica holds; an application that does not answer within 2 s shows no replicas."""
        rollout = fold(await asyncio.to_thread(read, self._state))
        gateways = await ask(rollout.sequence, within_s=2.0)
        return {
            "sequence": rollout.sequence,
            "aliases": {
                alias.name: {
                    "champion": alias.champion,
                    "base": alias.base,
                    "history": alias.history,
                    "staged": alias.staged,
                    "canary": self._canary(alias),
                }
                for alias in rollout.aliases.values()
            },
            "replicas": {gateway.application: gateway.replies for gateway in gateways},
        }

    @api.post("/create")
    async def create(self, order: Order, request: Request) -> Decision:
        check_name(order.alias)
        if not order.base:
            raise ValueError("create needs a base, the id of the model that the alias serves")
        await asyncio.to_thread(self._registry.create_base, order.alias, order.base)
        decision = await self._append(order, "create", request.state.principal)
        # Told, but not waited for: replicas that are still starting read the log before they serve.
        await ask(decision.sequence, within_s=2.0)
        return decision

    @api.post("/stage")
    async def stage(self, order: Order, request: Request) -> Decision:
        return await self._stage(order, request.state.principal)

    @api.post("/publish")
    async def publish(self, order: Order, request: Request) -> Decision:
        """An accepted candidate goes on as `mode` in services/serve.yaml says."""
        if self._settings.mode == "direct":
            return await self._promote(order, request.state.principal)
        order = order.model_copy(update={"shadow": self._settings.mode == "shadow"})
        return await self._begin(order, request.state.principal)

    @api.post("/canary")
    async def canary(self, order: Order, request: Request) -> Decision:
        return await self._begin(order, request.state.principal)

    @api.post("/promote")
    async def promote(self, order: Order, request: Request) -> Decision:
        return await self._promote(order, request.state.principal)

    @api.post("/reject")
    async def reject(self, order: Order, request: Request) -> Decision:
        return await self._announce(order, "reject", request.state.principal)

    @api.post("/rollback")
    async def rollback(self, order: Order, request: Request) -> Decision:
        alias = fold(await asyncio.to_thread(read, self._state)).aliases.get(order.alias)
        if alias is not None and alias.history:
            former, gateways = alias.history[-1], await ask(-1, within_s=1.0)
            # Only a replica that says it cannot stops this: who hangs or is just dying must not hold up an emergency.
            lacking(gateways, -1, former)
            if self._hosts.is_full(former) and not hosts(gateways, former):  # one that led here may need its engine
                await self._hosts.bring(former, self._settings.host_s)
        return await self._announce(order, "rollback", request.state.principal)

    async def _stage(self, order: Order, actor: str) -> Decision:
        decision = await self._append(order, "stage", actor)
        await self._held(decision, order, actor)
        return decision

    async def _begin(self, order: Order, actor: str) -> Decision:
        await self._stage(order, actor)
        share = order.share or self._settings.shares[0]
        return await self._announce(order.model_copy(update={"share": share}), "canary", actor)

    async def _promote(self, order: Order, actor: str, evidence: Evidence | None = None) -> Decision:
        await self._stage(order, actor)
        return await self._announce(order, "promote", actor, evidence)

    async def _announce(self, order: Order, action: Action, actor: str, evidence: Evidence | None = None) -> Decision:
        """Write a decision and wait until every replica follows it."""
        decision = await self._append(order, action, actor, evidence)
        try:
            await self._wait(decision, None, TELL_S)
        except Unavailable as late:
            raise Unavailable(f"decision {decision.sequence} stands, but {late}; they follow by themselves") from None
        return decision

    async def _append(self, order: Order, action: Action, actor: str, evidence: Evidence | None = None) -> Decision:
        base = order.base
        if action not in ("create", "rollback"):
            if order.version is None:
                raise ValueError(f"say which version of {order.alias}, for example {order.alias}@1")
            base = (await asyncio.to_thread(self._registry.get, order.version)).base
        draft = Draft(
            action=action,
            alias=order.alias,
            actor=actor,
            reason=order.reason,
            version=None if action == "create" else order.version,
            base=base,
            verdict=order.verdict if action in ("canary", "promote", "reject") else None,
            share=order.share if action == "canary" else None,
            shadow=order.shadow and action == "canary",
            evidence=evidence,
        )
        decision = await asyncio.to_thread(append, self._state, draft)
        self._news.set()
        logger.info("decision %d: %s %s (%s)", decision.sequence, decision.action, decision.version, decision.reason)
        return decision

    async def _held(self, staged: Decision, order: Order, actor: str) -> None:
        """Wait until every replica holds a staged version; reject it if one cannot."""
        try:
            if self._hosts.is_full(staged.version):
                await self._hosts.bring(staged.version, self._settings.host_s)
            await self._wait(staged, staged.version, STAGE_S)
        except (CannotLoad, Unavailable) as refusal:
            reason = Order(alias=order.alias, version=order.version, reason=str(refusal))
            with suppress(ValueError):  # the champion itself, or let go meanwhile
                await self._append(reason, "reject", actor)
            raise ValueError(str(refusal)) from None

    async def _wait(self, decision: Decision, version: str | None, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            if version is not None:
                alias = fold(await asyncio.to_thread(read, self._state)).aliases[decision.alias]
                if version not in (alias.staged, alias.champion):
                    raise ValueError(f"{version} is no longer staged: another decision came between")
            gateways = await ask(decision.sequence, max(deadline - time.monotonic(), 0.1))
            lack = lacking(gateways, decision.sequence, version)
            if lack is None:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{lack} within {within_s:.0f} s")
            await asyncio.sleep(0.1)

    def _canary(self, alias: Alias) -> dict[str, Any] | None:
        """A canary as people and programs see it: what it is, and what was seen of it at the last look."""
        if alias.canary is None:
            return None
        seen = self._seen.get(alias.name)
        known = {"reason": seen.reason, "evidence": seen.evidence.model_dump()} if seen else {}
        return {**asdict(alias.canary), **known}

    async def _control(self) -> None:
        while True:
            took_s = 0.0
            try:
                news = await asyncio.to_thread(read, self._state, self._rollout.sequence)
                self._rollout = fold(news, self._rollout)
                telemetry.rollout(self._rollout)
                running = {alias.name: alias for alias in self._rollout.aliases.values() if alias.canary}
                self._witnesses = {name: w for name, w in self._witnesses.items() if name in running}
                self._seen = {name: seen for name, seen in self._seen.items() if name in running}
                for alias in running.values():
                    took_s += await self._judge(alias)
            except Exception:  # a disk that is away, a decision that somebody else made first: looked at again
                logger.exception("the canaries could not be looked at")
            await asyncio.sleep(max(self._settings.look_every_s, REST * took_s))

    async def _judge(self, alias: Alias) -> float:
        """Look at one canary and do what follows; how long the look took, in seconds."""
        began = time.monotonic()
        witness = self._witnesses.get(alias.name)
        if witness is None or not witness.follows(alias):
            witness = self._witnesses[alias.name] = Witness(self._log, alias)
        state = await asyncio.to_thread(witness.look, alias, self._settings.session_s, time.time())
        outcome = self._seen[alias.name] = decide(state, self._settings)
        took_s = time.monotonic() - began
        order = Order(alias=alias.name, version=alias.staged, reason=outcome.reason, shadow=state.shadow)
        match outcome:
            case Promote(_, evidence):
                await self._promote(order, CONTROLLER, evidence)
            case RollBack(_, evidence):
                await self._announce(order, "reject", CONTROLLER, evidence)
            case Widen(share, _, evidence):
                await self._announce(order.model_copy(update={"share": share}), "canary", CONTROLLER, evidence)
        return took_s

    def _mirror(self) -> None:
        give_way()
        while True:
            self._news.wait(MIRROR_S)
            self._news.clear()
            try:
                self._registry.mirror_aliases(read(self._state))
            except Exception:  # a disk that is away: the thread must be there when it is back
                logger.exception("the decision log could not be mirrored")


def app(settings: CanarySettings) -> serve.Application:
    """What `services/serve.yaml` names; `args` there are the settings."""
    return Rollouts.bind(settings)  # type: ignore[attr-defined]  # serve.ingress's types hide the deployment


# Serve looks at the class itself to parse `args`; postponed annotations are only its name.
app.__annotations__["settings"] = CanarySettings
