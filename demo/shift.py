"""The agents' play: a clerk that fails often, a checker of the shop's books, one turn of the wheel, a better clerk.

    up with a shop -> consent -> before -> a shift of jobs, each judged -> the wheel -> the canary -> after

The clerk is measured on ways to put a job that are never live (`jobs.HELD_OUT`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from demo import acts, report
from demo.agency import AGENT, Agency, Run
from demo.command import address, answer, trivium
from demo.jobs import HELD_OUT, LEARNT, Book, Job
from demo.shop import Shop
from demo.story import Story, percent
from demo.turn import Turn, Watch

ALIAS = "clerk"
OWN_JOBS, OWN_VALIDATE = 600, 120
CANARY_BATCH = 64
"""Jobs after which the demo looks at what the canary came to."""
MOST_CANARY = 1500
GOOD = 0.2
"""With a smaller gain the demo waits for another turn."""
TEMPERATURE = 0.7
"""Of the clerk: who always says the same never finds out that something else works."""
TRAINING = {"learning_rate": 0.003, "batch_tokens": 1024, "min_steps": 200, "max_seconds": 120}
"""What suits the seed model, as in pipelines/recipes/default.yaml."""
POLICY = f"""\
@id("the-clerk-may-keep-shop")
permit (principal in Agent::"{AGENT}", action == Action::"call", resource in Owner::"mcp:shop");
"""


@dataclass(frozen=True)
class Script:
    """What the command line asks for."""

    jobs: int | None
    validate: int | None
    cycles: int
    patience_s: float
    out: Path


@dataclass
class Scene:
    """What comes about on the way."""

    book: Book
    agency: Agency
    watch: Watch
    champion: str = ""
    before: list[Run] = field(default_factory=list)
    live: list[Run] = field(default_factory=list)
    after: list[Run] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    canaries: list[dict[str, Any]] = field(default_factory=list)


class Shift:
    def __init__(self, script: Script, story: Story | None = None) -> None:
        self.script = script
        self.story = story or Story()
        self._jobs, self._validate = script.jobs or OWN_JOBS, script.validate or OWN_VALIDATE

    def perform(self) -> dict[str, Any]:
        """The whole play; returns the report."""
        with self.story.chapter("total", "Trivium: an agent that learns from what came of its work"):
            self.script.out.mkdir(parents=True, exist_ok=True)
            shop, book = Shop(self.script.out.absolute() / "shop.db"), Book(seed=0)
            shop.open_with(book.items)
            config = settle(self.script.out.absolute(), self._jobs)
            acts.up(self.story, "--config", str(config))
            self.story.say(trivium("agents", "consent", "shop", "--yes").splitlines()[-1])
            base_url, key = address()
            os.environ["OPENAI_API_KEY"] = key  # for `trivium wheel`: this shell may hold that of an earlier cluster
            result = asyncio.run(self._perform(shop, book, base_url, key))
        result["timings_s"] = self.story.timings_s
        page = report.write(result, self.script.out)
        self._farewell(result, page)
        return result

    async def _perform(self, shop: Shop, book: Book, base_url: str, key: str) -> dict[str, Any]:
        scene = Scene(book, Agency(base_url, key, shop), Watch(base_url, key))
        try:
            scene.champion = champion = await scene.watch.champion(ALIAS)
            with self.story.chapter("before", f"Before: {champion} does jobs, put in ways that are never live"):
                scene.before = await self._measure(scene)
            wheel = await scene.watch.look()
            known = wheel.turn.id if wheel.turn else None
            for cycle in range(1, self.script.cycles + 1):
                trivium("wheel", "on")
                with self.story.chapter("live", f"A shift: {self._jobs} jobs, each judged by the shop's books"):
                    await self._live(scene, self._jobs)
                turn = await acts.turn(self.story, scene.watch, cycle, known, self.script.patience_s)
                trivium("wheel", "off")
                scene.turns.append(turn)
                known = turn.id
                if turn.outcome == "canary" and turn.candidate:
                    await self._canary(scene, turn.candidate)
                champion = await scene.watch.champion(ALIAS)
                with self.story.chapter("after", f"After: {champion} does such jobs for other customers"):
                    scene.after = await self._measure(scene)
                if report.success(scene.after) - report.success(scene.before) >= GOOD:
                    break
            if wheel.on:
                trivium("wheel", "on")
            return self._facts(scene, champion)
        finally:
            await scene.agency.close()
            await scene.watch.close()

    async def _measure(self, scene: Scene) -> list[Run]:
        return await self._work(scene, "measured", scene.book.draw(HELD_OUT, self._validate), reward=False)

    async def _live(self, scene: Scene, count: int) -> None:
        scene.live += await self._work(scene, "jobs", scene.book.draw(LEARNT, count), reward=True)

    async def _work(self, scene: Scene, what: str, jobs: list[Job], reward: bool) -> list[Run]:
        done = 0
        with self.story.counting(what, len(jobs)) as advance:

            def seen(run: Run) -> None:
                nonlocal done
                done += run.success
                advance(f"{done} done as they should be")

            runs = await scene.agency.work(jobs, reward, seen)
        failed = sum(run.error is not None for run in runs)
        share = percent(report.success(runs))
        self.story.say(f"{share} of {len(runs)} jobs done as they should be, {failed} never answered")
        return runs

    async def _canary(self, scene: Scene, candidate: str) -> None:
        first = len(scene.live)

        async def users() -> tuple[int, int] | None:
            if len(scene.live) - first >= MOST_CANARY:
                return None
            await self._live(scene, CANARY_BATCH)
            came = len(scene.live) - first
            return came, came  # each run is a session of its own

        if ended := await acts.canary(self.story, scene.watch, ALIAS, candidate, self.script.patience_s, users):
            scene.canaries.append(ended)

    def _facts(self, scene: Scene, champion: str) -> dict[str, Any]:
        told = answer("lineage", champion, "--json") if champion != scene.champion else {}
        return report.assemble_agents(
            report.AgentFacts(
                before=scene.before,
                after=scene.after,
                live=scene.live,
                champions=(scene.champion, champion),
                turns=scene.turns,
                canaries=scene.canaries,
                lineage=told.get("lineage") or {},
                timings_s=self.story.timings_s,
                loss=[(point["step"], point["loss"]) for point in told.get("history", []) if "loss" in point],
            )
        )

    def _farewell(self, result: dict[str, Any], page: Path) -> None:
        story, champion = self.story, result["champion"]["after"]
        story.title("What came of it")
        story.successes(result)
        story.title("Look further")
        story.say(f"why it serves     trivium lineage {champion}")
        story.say(f"what it did       trivium agents list --agent {AGENT}")
        story.say(f"the shop's books  sqlite3 {self.script.out / 'shop.db'} 'SELECT * FROM orders'")
        story.say(f"the report        {page}")
        story.say("end it            trivium down")


def settle(out: Path, jobs: int) -> Path:
    """The Serve config of a cluster with a shop and its clerk: the shipped one, and what is said here."""
    (out / "shop.cedar").write_text(POLICY)
    recipe: dict[str, Any] = yaml.safe_load(files("pipelines").joinpath("recipes/agents.yaml").read_text())
    recipe["training"] |= TRAINING
    (out / "recipe.yaml").write_text(yaml.safe_dump({"alias": ALIAS, **recipe}, sort_keys=False))
    config: dict[str, Any] = yaml.safe_load(files("services").joinpath("serve.yaml").read_text())
    args = {application["name"]: application.setdefault("args", {}) for application in config["applications"]}
    args["assistant"]["alias"] = ALIAS
    args["wheel"].update(recipe=str(out / "recipe.yaml"), min_feedback=jobs)
    server = {"command": sys.executable, "args": ["-m", "demo.shop", str(out / "shop.db")]}
    clerk = {
        "description": "Looks up, computes, orders and rejects in a small shop.",
        "model": ALIAS,
        "tools": ["mcp:shop/*"],
        "temperature": TEMPERATURE,
        "max_tokens": 96,
        "limits": {"turns": 6},
    }
    args["agents"].update(
        agents={AGENT: clerk},
        tools={"mcp": {"servers": {"shop": server}}},
        policy={"files": [str(out / "shop.cedar")]},
    )
    path = out / "serve.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
