"""The play itself: up, traffic, before, live, the wheel, the canary, after, the report. One method for one act."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import acts, report, traffic
from demo.baseline import NaiveBayes
from demo.client import SESSION_REQUESTS, Answer, Application, Tally
from demo.command import address, answer, trivium
from demo.feedback import Dilution
from demo.story import Story, percent
from demo.traffic import Traffic, Wish
from demo.turn import Turn, Watch

ALIAS = "assistant"
OWN_REQUESTS, GIVEN_REQUESTS = 800, 4000
OWN_VALIDATE = 300
SPARE = 2000
"""Own requests beyond those: users who come while a canary is judged."""
CANARY_BATCH = 200
"""Requests after which the demo looks at what the canary came to."""
FIRST_SHARE = 0.9
"""Share of the live requests that come before the wheel's first turn; the others meet what it has learned."""
GOOD = {"gain": 0.3, "exact_match": 0.5, "tool_accuracy": 0.92}
"""With less than this, the demo waits for another turn."""


@dataclass(frozen=True)
class Script:
    """What the command line asks for."""

    traffic: Path | None
    dilution: Dilution
    requests: int | None
    validate: int | None
    cycles: int
    patience_s: float
    out: Path
    plant: bool = False
    """In the end, let the version that served before try to come back."""


@dataclass
class Scene:
    """What comes about on the way."""

    traffic: Traffic
    live: list[Wish]
    """Live requests that are still to come."""
    spare: list[Wish]
    """More of them, for canaries that need longer."""
    validate: list[Wish]
    app: Application
    watch: Watch
    run: str
    champion: str = ""
    before: list[Answer] = field(default_factory=list)
    after: list[Answer] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    logged: int = 0
    turns: list[Turn] = field(default_factory=list)
    canaries: list[dict[str, Any]] = field(default_factory=list)

    def next(self, count: int) -> list[Wish]:
        """The next live requests; spare ones when those are used up."""
        wishes, self.live = self.live[:count], self.live[count:]
        more = count - len(wishes)
        wishes, self.spare = wishes + self.spare[:more], self.spare[more:]
        return wishes


class Play:
    def __init__(self, script: Script, story: Story | None = None) -> None:
        self.script = script
        self.story = story or Story()

    def perform(self) -> dict[str, Any]:
        """The whole play; returns the report."""
        given = traffic.read(self.script.traffic) if self.script.traffic else None  # a broken file is told at once
        with self.story.chapter("total", "Trivium: a model that learns from those who use it"):
            acts.up(self.story)
            base_url, key = address()
            os.environ["OPENAI_API_KEY"] = key  # for `trivium wheel`: this shell may hold that of an earlier cluster
            result = asyncio.run(self._perform(given or self._own_traffic(), base_url, key))
        result["timings_s"] = self.story.timings_s
        page = report.write(result, self.script.out)
        self._farewell(result, page)
        return result

    async def _perform(self, given: Traffic, base_url: str, key: str) -> dict[str, Any]:
        app = Application(base_url, key, given.tools, ALIAS)
        watch = Watch(base_url, key)
        validate = given.validate[: self.script.validate]
        run, live, spare = f"demo-{secrets.token_hex(3)}", given.train[: self._requests], given.train[self._requests :]
        scene = Scene(given, live, spare, validate, app, watch, run)
        try:
            scene.champion = await watch.champion(ALIAS)
            with self.story.chapter(
                "before", f"Before: {scene.champion} answers {len(validate)} requests that it will never learn from"
            ):
                scene.before = await self._measure(scene)
            left_on = (await watch.look()).on
            await self._learn(scene)
            champion = await watch.champion(ALIAS)
            if scene.live:
                with self.story.chapter("live", f"Live again: {champion} answers the remaining requests"):
                    await self._live(scene, scene.next(len(scene.live)))
            if self.script.plant:
                await self._plant(scene, champion)
            if left_on:
                # As we found it; what the last requests taught waits in the log for the next turn.
                trivium("wheel", "on")
            return self._facts(scene, champion)
        finally:
            await app.close()
            await watch.close()

    @property
    def _requests(self) -> int:
        """How many live requests. Users who seldom speak must be more of them: the wheel counts feedback."""
        if self.script.requests or self.script.traffic:
            return self.script.requests or GIVEN_REQUESTS
        return min(GIVEN_REQUESTS, round(OWN_REQUESTS / max(self.script.dilution.rate, 0.01)))

    def _own_traffic(self) -> Traffic:
        """Requests from the project's own generator, for tools that the seed model has not met."""
        folder = self.script.out / "traffic"
        sizes = (self._requests + SPARE, self.script.validate or OWN_VALIDATE)
        with self.story.chapter("traffic", "Traffic: made up for tools that the model has never met"):
            trivium("seed", "traffic", "--out", str(folder), "--train", str(sizes[0]), "--validate", str(sizes[1]))
            return traffic.read(folder)

    async def _learn(self, scene: Scene) -> None:
        """Live traffic, then a turn of the wheel, until the score is good or the cycles are used up.

        The wheel is switched off after each turn, for it would turn once more while we measure what came of it.
        """
        wheel = await scene.watch.look()
        known, fresh = wheel.turn.id if wheel.turn else None, wheel.fresh
        for cycle in range(1, self.script.cycles + 1):
            trivium("wheel", "on")
            self.story.say(f"the wheel is on: it turns when {wheel.min_feedback} answers have fresh feedback")
            count = len(scene.live)
            if cycle == 1:
                count = first_batch(count, self.script.dilution.rate, wheel.min_feedback)
            given = scene.tally.feedback["given"]
            with self.story.chapter("live", f"Live: {count} users ask {ALIAS} and tell what they think of the answers"):
                await self._live(scene, scene.next(count))
            fresh += scene.tally.feedback["given"] - given
            if fresh < wheel.min_feedback:
                trivium("wheel", "off")
                return self.story.say(f"feedback on {fresh} answers: too little for the wheel to turn")
            turn = await acts.turn(self.story, scene.watch, cycle, known, self.script.patience_s)
            scene.turns.append(turn)
            trivium("wheel", "off")
            known, given = turn.id, scene.tally.feedback["given"]
            if turn.outcome == "canary" and turn.candidate:
                await self._canary(scene, turn.candidate)
            fresh = scene.tally.feedback["given"] - given
            champion = await scene.watch.champion(ALIAS)
            with self.story.chapter("after", f"After: {champion} answers the same requests as before"):
                scene.after = await self._measure(scene)
            if good(scene.before, scene.after):
                return

    async def _canary(self, scene: Scene, candidate: str) -> None:
        first = scene.tally.requests

        async def users() -> tuple[int, int] | None:
            if not (wishes := scene.next(CANARY_BATCH)):
                return None
            await self._live(scene, wishes)
            requests = scene.tally.requests - first
            return requests, requests // SESSION_REQUESTS

        if ended := await acts.canary(self.story, scene.watch, ALIAS, candidate, self.script.patience_s, users):
            scene.canaries.append(ended)

    async def _plant(self, scene: Scene, champion: str) -> None:
        """A candidate that is worse: the version which served before. Nobody tells the cluster so."""
        if champion == scene.champion:
            return self.story.say(f"{champion} served all along, so there is no worse version to plant")
        trivium("canary", scene.champion, "--share", "0.3", "--reason", "planted by the demo")
        await self._canary(scene, scene.champion)

    async def _live(self, scene: Scene, wishes: list[Wish]) -> None:
        had = answer("log", "stats", "--json")["records"]
        right = 0

        with self.story.counting("requests", len(wishes)) as advance:

            def seen(given: Answer) -> None:
                nonlocal right
                right += given.exact
                advance(f"{right} exact")

            await scene.app.live(wishes, self.script.dilution, scene.run, scene.tally, seen)
        scene.logged += answer("log", "stats", "--json")["records"] - had
        told = scene.tally.feedback
        self.story.say(
            f"{scene.tally.requests} answered, {scene.logged} in the log, {len(scene.tally.failures)} failed; "
            f"feedback on {told['given']}, {told['corrections']} with a correction"
        )

    async def _measure(self, scene: Scene) -> list[Answer]:
        with self.story.counting("measured", len(scene.validate)) as advance:
            answers = await scene.app.measure(scene.validate, lambda _: advance(""))
        share = report.score(answers)
        self.story.say(f"right tool {percent(share['tool_accuracy'])}, exact call {percent(share['exact_match'])}")
        return answers

    def _facts(self, scene: Scene, champion: str) -> dict[str, Any]:
        told = answer("lineage", champion, "--json") if champion != scene.champion else {}
        return report.assemble(
            report.Facts(
                before=scene.before,
                after=scene.after or scene.before,
                live=scene.tally,
                logged=scene.logged,
                baseline_tool_accuracy=NaiveBayes(scene.traffic.train[: scene.tally.requests]).accuracy(scene.validate),
                champions=(scene.champion, champion),
                turns=scene.turns,
                canaries=scene.canaries,
                lineage=told.get("lineage") or {},
                timings_s=self.story.timings_s,
                traffic=str(self.script.traffic or "made by the project's own generator"),
                feedback=f"{self.script.dilution.rate:g},{self.script.dilution.score_only:g},{self.script.dilution.wrong:g}",
                loss=[(point["step"], point["loss"]) for point in told.get("history", []) if "loss" in point],
            )
        )

    def _farewell(self, result: dict[str, Any], page: Path) -> None:
        story, champion = self.story, result["champion"]["after"]
        story.title("What came of it")
        story.scores(result)
        story.say(
            f"Naive Bayes on words finds the right tool for {percent(result['baseline_tool_accuracy'])}: "
            "the easy part. It fills in no argument."
        )
        story.title("Look further")
        story.say(f"why it serves     trivium lineage {champion}")
        story.say(f"the report        {page}")
        story.say(f"the dashboard     {answer('status', '--json')['addresses']['dashboard']}")
        story.say("go on learning    trivium wheel on")
        story.say("take it back      trivium rollback")
        story.say("end it            trivium down")


def first_batch(count: int, rate: float, min_feedback: int) -> int:
    """How many of `count` live requests come before the first turn.

    The rest should be enough for a second turn, if that leaves the first one most of them.
    """
    rest = max(count - round(FIRST_SHARE * count), math.ceil(1.1 * min_feedback / max(rate, 0.01)))
    return count - rest if rest <= 0.45 * count else math.ceil(FIRST_SHARE * count)


def good(before: list[Answer], after: list[Answer]) -> bool:
    """Whether another turn is not needed."""
    old, new = report.score(before), report.score(after)
    return (
        new["exact_match"] - old["exact_match"] >= GOOD["gain"]
        and new["exact_match"] >= GOOD["exact_match"]
        and new["tool_accuracy"] >= GOOD["tool_accuracy"]
    )
