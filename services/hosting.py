"""Applications for full-weight versions, kept as the decision log wants them (`cluster/hosting.py` says which).

One is brought up before an alias, a canary or an evaluation addresses its version, and taken down when nothing needs it
any more: first every gateway knows the decision, then none has a route to it, then Serve lets its replicas finish their
streams. What is done follows from the decision log and from what Serve has, so it may be broken off anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import httpx

from cluster import deploy, head, hosting
from cluster.admin import Unavailable
from cluster.decisions import Rollout, fold, read
from cluster.hosting import Plan
from cluster.registry import Registry
from cluster.settings import Settings
from services.gateway.desired import withdraw
from services.replicas import CannotLoad, ask, hosts, lacking

logger = logging.getLogger(__name__)

ROOM_S = 60.0
"""How long a replica may wait for room: what trains gives some back within seconds."""
TELL_S = 5.0
"""Longest wait for what gateways say; who does not answer is asked again at the next look."""


class Hosts:
    """The applications of full-weight versions."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._serve = deploy.Serve(settings.dashboard_url, head.token(settings))
        self._one = asyncio.Lock()
        self._settled = -1
        self._any = True
        """Whether Serve has such applications; it is asked once."""

    def is_full(self, version: str | None) -> bool:
        found = self._registry.find(version) if version else None
        return found is not None and found.form == "full"

    async def bring(self, version: str, within_s: float) -> None:
        """Have an application serve a version that the decision log needs: all of its replicas are ready.

        Raises `CannotLoad` with Serve's words if it does not start, `Unavailable` if it takes too long, `ValueError` if
        another decision has made it useless meanwhile.
        """
        deadline = time.monotonic() + within_s
        try:
            if not hosts(await ask(-1, TELL_S), version):
                await asyncio.to_thread(self._registry.check, self._registry.get(version))
            await self.settle()
        except ValueError as refusal:
            raise CannotLoad(str(refusal)) from None
        except (httpx.HTTPError, RuntimeError) as error:
            raise Unavailable(f"Serve cannot be told to serve {version}: {error}") from None
        await self._start(version, deadline)

    async def settle(self) -> None:
        """Start what the decision log needs, end what it does not. Whoever started is not waited for."""
        async with self._one:
            rollout = fold(await asyncio.to_thread(read, self._settings.state))
            if self._any or hosting.needed(rollout, self._registry.find):
                plan = await asyncio.to_thread(self._plan, rollout)
                alone = not plan.end or await self._withdraw(rollout.sequence, list(plan.end))
                self._any = await asyncio.to_thread(self._carry_out, plan.end if alone else {})
                if not alone:
                    return  # looked at again
            self._settled = rollout.sequence

    async def follow(self, every_s: float) -> None:
        """For ever: settle what each decision brings, also those that somebody else has made."""
        while True:
            try:
                if await asyncio.to_thread(read, self._settings.state, self._settled):
                    await self.settle()
            except Exception as error:  # a gateway that does not answer, a dashboard that is away: at the next look
                logger.warning("the applications of versions are not as decided yet: %s", error)
            await asyncio.sleep(every_s)

    def _plan(self, rollout: Rollout) -> Plan:
        configs = deploy.declared(self._serve.details())
        return hosting.plan(configs, rollout, self._registry.find, self._registry.root)

    async def _withdraw(self, sequence: int, versions: list[str]) -> bool:
        """Whether nobody forwards to them any more. A gateway that is late with the decision would, to nowhere."""
        for what in ("the decision", "its routes"):
            if lack := lacking(await ask(sequence, TELL_S), sequence, None):
                logger.warning("%s cannot end before every gateway knows %s: %s", versions, what, lack)
                return False
            for version in versions:
                await asyncio.to_thread(withdraw, self._settings.state, version)
        return True

    def _carry_out(self, ending: Mapping[str, str]) -> bool:
        """Tell Serve; of what is to end, only what is not needed again by now. Whether any version has one then."""
        with deploy.alone(self._settings.state):
            details = self._serve.details()
            rollout, find, root = fold(read(self._settings.state)), self._registry.find, self._registry.root
            plan = hosting.plan(deploy.declared(details), rollout, find, root)
            ended = {name for version, name in plan.end.items() if version in ending}
            config = deploy.beside({"applications": plan.start}, details, ended)
            if plan.start or ended:
                started = [each["name"] for each in plan.start]
                logger.info("applications of versions: %s start, %s end", started, sorted(ended))
                self._serve.deploy(config)
            return any(hosting.hosted(each, root) for each in config["applications"])

    async def _start(self, version: str, deadline: float) -> None:
        """Wait until Serve says that it runs."""
        state, find = self._settings.state, self._registry.find
        name, patience = "", deploy.Patience(self._serve, set(), ROOM_S)
        while True:
            details = await asyncio.to_thread(self._serve.details)
            if application := hosting.holder(deploy.declared(details), version):
                name = application["name"]
                patience.names = {name}
                if deploy.running(details, {name}):
                    return
                try:
                    await asyncio.to_thread(patience.look, details)
                except ValueError as failure:
                    raise CannotLoad(str(failure)) from None
            elif version not in {each.id for each in hosting.needed(fold(await asyncio.to_thread(read, state)), find)}:
                raise ValueError(f"{version} is no longer needed: another decision came between")
            elif not name:
                base = self._registry.get(version).base
                raise CannotLoad(f"no application serves {base}, after whose pattern {version} would get its own")
            if time.monotonic() > deadline:
                stands = "; ".join(deploy.progress(details, patience.names)) or "it is not there"
                raise Unavailable(f"{version} is not in service yet: {stands}; `host_s` says how long it may take")
            await asyncio.sleep(0.5)
