"""The only writer of the decision log, and its door: stage, promote, reject, roll back (`/admin/rollout`).

A decision is written first and then told to the replicas, which would find it by themselves half a second later. The
order of a promotion keeps the one promise that matters, that an alias never points to a version which a replica lacks:

    stage      append, then every replica loads the version and says so; one that cannot: append reject, answer 409
    promote    stage if need be, hear from every replica that it holds the version, append, tell them
    rollback   hear that none lacks the former champion (`Rollout.wanted` keeps it), append, tell them

`admit` is the pure part (which decision may follow which state), `append` writes, `Rollouts` is the Serve deployment.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Request
from ray import serve
from ray.serve.schema import ReplicaState

from cluster import durable, telemetry
from cluster.admin import Unavailable, admin_api
from cluster.decisions import Alias, Rollout, fold, path, read
from cluster.records import Decision, Verdict
from cluster.registry import Registry, check_name, parse
from cluster.settings import Settings, Strict

logger = logging.getLogger(__name__)

GATEWAY = "Gateway:"
"""How the deployments begin whose replicas `reconcile` (services/serving.py names them)."""
STAGE_S = 120.0
"""Longest that staging waits for replicas; a killed one is back in about 51 s."""
TELL_S = 10.0
"""Longest that a decision waits for its acknowledgements once nothing needs loading (they take 4 ms)."""
MIRROR_S = 60.0
"""How often MLflow is compared with the decision log when nothing happens."""

Action = Literal["create", "stage", "promote", "reject", "rollback"]


@dataclass(frozen=True)
class Draft:
    """A decision as somebody asks for it: not yet legal, not yet numbered."""

    action: Action
    alias: str
    actor: str
    reason: str
    version: str | None = None
    """Needed except for a rollback, where it says to which version: then asking twice goes back only once."""
    base: str | None = None
    """Base of `version`; a rollback takes the alias's."""
    verdict: Verdict | None = None


# Deciding: pure


def admit(rollout: Rollout, draft: Draft, now: float) -> Decision:
    """The decision that follows from a request in this state. Raises `ValueError`, one sentence, if it is not legal."""
    alias = rollout.aliases.get(draft.alias)
    if draft.action == "create":
        if alias is not None:
            raise ValueError(
                f"the alias {alias.name} serves {alias.base} already, not {draft.base}; "
                "choose another alias, or another state folder (TRIVIUM_STATE)"
            )
        return _decision(rollout, draft, draft.version or f"{draft.alias}@0", draft.base or "", now)
    if alias is None:
        known = ", ".join(rollout.aliases) or "none yet"
        raise ValueError(f"there is no alias {draft.alias}; there are: {known}")
    version = _former(alias, draft.version) if draft.action == "rollback" else draft.version
    if version is None or parse(version)[0] != alias.name:
        raise ValueError(f"{draft.action} needs a version of {alias.name}, such as {alias.name}@1, not {version}")
    if draft.base is not None and draft.base != alias.base:
        raise ValueError(f"{version} was made for {draft.base}, but {alias.name} serves {alias.base}")
    match draft.action:
        case "stage" if version == alias.champion:
            raise ValueError(f"{version} is the champion of {alias.name} already")
        case "promote" if version != alias.staged:
            raise ValueError(f"{version} is not staged, {alias.staged or 'nothing'} is: another decision came between")
        case "reject" if version != alias.staged:
            raise ValueError(f"{version} cannot be rejected, because it is not staged; {alias.staged or 'nothing'} is")
    return _decision(rollout, draft, version, alias.base, now)


def settled(decisions: Sequence[Decision], draft: Draft) -> Decision | None:
    """The decision that already brought about what is asked for, so that a repeated request is harmless."""
    alias = fold(decisions).aliases.get(draft.alias)
    about = [d for d in decisions if d.alias == draft.alias and draft.version in (None, d.version)]
    if alias is None or not about:
        return None
    holds = {
        "create": alias.base == draft.base,
        "stage": draft.version in (alias.staged, alias.champion),
        "promote": alias.champion == draft.version,
        "reject": about[-1].action == "reject" and alias.staged != draft.version,
        "rollback": about[-1].action == "rollback" and alias.champion == draft.version,
    }[draft.action]
    crowned = ("create", "promote", "rollback")
    by: dict[str, tuple[str, ...]] = {"promote": crowned, "stage": ("stage", *crowned)}
    made = [d for d in about if d.action in by.get(draft.action, (draft.action,))]
    return made[-1] if holds and made else None


def _former(alias: Alias, version: str | None) -> str:
    if not alias.history:
        raise ValueError(f"{alias.name} has never been promoted, so there is nothing to roll back to")
    if version not in (None, alias.history[-1]):
        raise ValueError(f"a rollback of {alias.name} leads to {alias.history[-1]}, not {version}; use promote instead")
    return alias.history[-1]


def _decision(rollout: Rollout, draft: Draft, version: str, base: str, now: float) -> Decision:
    return Decision(
        sequence=rollout.sequence + 1,
        time=now,
        action=draft.action,
        alias=draft.alias,
        version=version,
        base=base,
        actor=draft.actor,
        reason=draft.reason,
        verdict=draft.verdict,
    )


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
        decision = admit(fold(decisions), draft, time.time())
        try:
            durable.create(path(state, decision.sequence), decision.model_dump_json(indent=1).encode())
        except FileExistsError:
            continue
        return decision


# Telling: what the replicas say


class CannotLoad(ValueError):
    """A replica says that it cannot hold a version: waiting will not help."""


@dataclass(frozen=True)
class Heard:
    """What one application's replicas answered to `reconcile`."""

    application: str
    running: int
    """Replicas that Serve counts as running; one that is starting reads the decision log before it is."""
    replies: list[dict[str, Any]]


def lacking(gateways: Sequence[Heard], sequence: int, version: str | None) -> str | None:
    """What keeps the replicas from having followed decision `sequence` and holding `version`; None if nothing does.

    Raises `CannotLoad` if a replica says that it cannot.
    """
    for gateway in gateways:
        follow = [reply for reply in gateway.replies if reply["sequence"] >= sequence]
        if len(follow) < gateway.running:
            return f"{len(follow)} of {gateway.running} replicas of {gateway.application} answered"
    if version is None or parse(version)[1] == 0 or any(_is(gateway, version) for gateway in gateways):
        return None  # the base itself, or full weights with an application of their own: nothing to load
    for gateway in gateways:
        for reply in gateway.replies:
            if reason := reply["errors"].get(version):
                raise CannotLoad(f"replica {reply['replica']} of {gateway.application} cannot load {version}: {reason}")
    # Applications of other bases need not hold it: they forward to one that does.
    held = any(g.replies and all(version in reply["versions"] for reply in g.replies) for g in gateways)
    return None if held else f"no application of the cluster holds {version} in all its replicas"


def _is(gateway: Heard, version: str) -> bool:
    return bool(gateway.replies) and all(reply["base"] == version for reply in gateway.replies)


# Serving: the door

api = admin_api()


class Order(Strict):
    """Body of a request for a decision."""

    alias: str
    version: str | None = None
    base: str | None = None
    reason: str = ""
    verdict: Verdict | None = None


@serve.deployment(name="rollout", num_replicas=1, ray_actor_options={"num_cpus": 0})
@serve.ingress(api)
class Rollouts:
    """Answers `/admin/rollout`. Two of it can run for a moment, while Serve replaces one: `append` keeps them apart."""

    def __init__(self) -> None:
        self._state = Settings.from_environment().state
        self._registry = Registry(Settings.from_environment())
        self._news = threading.Event()
        telemetry.follow_rollout(self._state)
        threading.Thread(target=self._mirror, name="mlflow-mirror", daemon=True).start()

    @api.get("/")
    async def show(self) -> dict[str, Any]:
        """Aliases, and what each replica holds; an application that does not answer within 2 s shows no replicas."""
        rollout = fold(await asyncio.to_thread(read, self._state))
        gateways = await self._ask(rollout.sequence, within_s=2.0)
        return {
            "sequence": rollout.sequence,
            "aliases": {
                alias.name: {
                    "champion": alias.champion,
                    "base": alias.base,
                    "history": alias.history,
                    "staged": alias.staged,
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
        decision = await self._append(order, "create", request)
        # Told, but not waited for: replicas that are still starting read the log before they serve.
        await self._ask(decision.sequence, within_s=2.0)
        return decision

    @api.post("/stage")
    async def stage(self, order: Order, request: Request) -> Decision:
        decision = await self._append(order, "stage", request)
        await self._held(decision, order, request)
        return decision

    @api.post("/promote")
    async def promote(self, order: Order, request: Request) -> Decision:
        await self._held(await self._append(order, "stage", request), order, request)
        decision = await self._append(order, "promote", request)
        await self._told(decision)
        return decision

    @api.post("/reject")
    async def reject(self, order: Order, request: Request) -> Decision:
        decision = await self._append(order, "reject", request)
        await self._told(decision)
        return decision

    @api.post("/rollback")
    async def rollback(self, order: Order, request: Request) -> Decision:
        alias = fold(await asyncio.to_thread(read, self._state)).aliases.get(order.alias)
        if alias is not None and alias.history:
            # Only a replica that says it cannot stops this: who hangs or is just dying must not hold up an emergency.
            lacking(await self._ask(-1, within_s=1.0), -1, alias.history[-1])
        decision = await self._append(order, "rollback", request)
        await self._told(decision)
        return decision

    async def _append(self, order: Order, action: Action, request: Request) -> Decision:
        base = order.base
        if action in ("stage", "promote", "reject"):
            if order.version is None:
                raise ValueError(f"say which version of {order.alias}, for example {order.alias}@1")
            base = (await asyncio.to_thread(self._registry.get, order.version)).base
        draft = Draft(
            action=action,
            alias=order.alias,
            actor=request.state.principal,
            reason=order.reason,
            version=None if action == "create" else order.version,
            base=base,
            verdict=order.verdict if action in ("promote", "reject") else None,
        )
        decision = await asyncio.to_thread(append, self._state, draft)
        self._news.set()
        logger.info("decision %d: %s %s (%s)", decision.sequence, decision.action, decision.version, decision.reason)
        return decision

    async def _held(self, staged: Decision, order: Order, request: Request) -> None:
        """Wait until every replica holds a staged version; reject it if one cannot."""
        try:
            await self._wait(staged, staged.version, STAGE_S)
        except (CannotLoad, Unavailable) as refusal:
            reason = Order(alias=order.alias, version=order.version, reason=str(refusal))
            with suppress(ValueError):  # the champion itself, or let go meanwhile
                await self._append(reason, "reject", request)
            raise ValueError(str(refusal)) from None

    async def _told(self, decision: Decision) -> None:
        try:
            await self._wait(decision, None, TELL_S)
        except Unavailable as late:
            raise Unavailable(f"decision {decision.sequence} stands, but {late}; they follow by themselves") from None

    async def _wait(self, decision: Decision, version: str | None, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            if version is not None:
                alias = fold(await asyncio.to_thread(read, self._state)).aliases[decision.alias]
                if version not in (alias.staged, alias.champion):
                    raise ValueError(f"{version} is no longer staged: another decision came between")
            gateways = await self._ask(decision.sequence, max(deadline - time.monotonic(), 0.1))
            lack = lacking(gateways, decision.sequence, version)
            if lack is None:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{lack} within {within_s:.0f} s")
            await asyncio.sleep(0.1)

    async def _ask(self, sequence: int, within_s: float) -> list[Heard]:
        """Have every replica of every gateway application follow the decision log, and hear what they hold."""
        status = await asyncio.to_thread(serve.status)
        gateways = [
            (application, name, deployment.replica_states.get(ReplicaState.RUNNING, 0))
            for application, overview in status.applications.items()
            for name, deployment in overview.deployments.items()
            if name.startswith(GATEWAY)
        ]
        return await asyncio.gather(*(self._ask_one(*gateway, sequence, within_s) for gateway in gateways))

    async def _ask_one(self, application: str, name: str, running: int, sequence: int, within_s: float) -> Heard:
        # The look-up blocks, so it goes to a thread; the broadcast must not: with Serve's throughput-optimized
        # settings a handle belongs to the loop that first uses it.
        try:
            handle = await asyncio.to_thread(serve.get_deployment_handle, name, application)
            answers = await handle.broadcast("reconcile", sequence).results_async(
                timeout_s=within_s, return_exceptions=True
            )
        except Exception as error:  # the application goes, comes, or hangs: no replies, and the caller asks again
            logger.warning("%s did not answer to decision %d: %r", application, sequence, error)
            return Heard(application, running, [])
        return Heard(application, running, [answer for answer in answers if isinstance(answer, dict)])

    def _mirror(self) -> None:
        while True:
            self._news.wait(MIRROR_S)
            self._news.clear()
            try:
                self._registry.mirror_aliases(read(self._state))
            except Exception:  # a disk that is away: the thread must be there when it is back
                logger.exception("the decision log could not be mirrored")


app = Rollouts.bind()  # type: ignore[attr-defined]  # serve.ingress's types hide the deployment
