"""Candidate and champion answer the holdout through the live deployment: what is evaluated is exactly what will serve.

The candidate is staged first, so that every replica holds it. Answers are kept by version and request under
`runs/answers/`: the champion answers a row of the frozen holdout once, not in every cycle, and an evaluation that was
killed goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.client import Client
from cluster.records import Message
from pipelines import scorers
from pipelines.artifacts import Candidate, Dataset, Evaluation, Row, Scored
from pipelines.deployment import CHAT, COMPLETIONS, Deployment, Reply, chat, message
from pipelines.recipe import EvaluationSettings
from pipelines.scorers import Score, Scorer
from pipelines.steps import Run, digest

CODE = 1
"""Raise it when the same answers shall be scored anew."""


def evaluate(run: Run, candidate: Candidate, dataset: Dataset) -> Evaluation:
    """Replay the holdout as both versions and score the answers. Raises `ValueError` if the deployment stays away."""
    settings, alias = run.recipe.evaluation, run.recipe.alias
    scorer = scorers.find(settings.scorer, settings.judge)
    with Client(run.settings) as client:
        champion = served(client, alias)["champion"]

        def make(folder: Path) -> dict[str, Any]:
            client.stage(alias, candidate.version.id, f"evaluation in cycle {run.record.id}")
            rows = dataset.holdout()
            pair = asyncio.run(_replay(run, rows, (candidate.version.id, champion), scorer))
            result = _compare(rows, *pair)
            (folder / "evaluation.json").write_text(json.dumps(result, indent=1))
            return {"rows": len(rows), "metrics": result["metrics"]}

        inputs = {
            "code": CODE,
            "candidate": candidate.version.id,
            "champion": champion,
            "dataset": dataset.digest,
            "settings": settings.model_dump(mode="json"),
        }
        folder = run.step("evaluate", inputs, make)
    result = json.loads((folder / "evaluation.json").read_text())
    rows = [Scored(**row) for row in result["rows"]]
    return Evaluation(folder, rows, candidate.version.id, champion, result["metrics"])


def served(client: Client, alias: str) -> dict[str, Any]:
    """What an alias is now, as `/admin/rollout` has it. Raises `ValueError` if there is none of that name."""
    aliases = client.rollout()["aliases"]
    if alias not in aliases:
        known = ", ".join(aliases) or "none"
        raise ValueError(f"there is no alias {alias} (there is: {known}); see `alias` in the recipe")
    return aliases[alias]


def request(row: Row, settings: EvaluationSettings) -> tuple[str, dict[str, Any]]:
    """Path and body: a conversation is answered, a document's tokens are given their probabilities."""
    if row.origin == "document":
        return COMPLETIONS, {"prompt": row.messages[0]["content"], "echo": True, "logprobs": 1, "max_tokens": 0}
    return CHAT, chat(row, settings)


@dataclass(frozen=True)
class Answer:
    """What a version said to one row; `message` is None where the deployment refused the request."""

    message: Message | None
    finish_reason: str | None
    refusal: str | None = None


class Answers:
    """Answers of one version that are there already, one JSON line each, by the digest of their request."""

    def __init__(self, state: Path, version: str) -> None:
        self._path = state / "runs" / "answers" / f"{version}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Answer] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                entry = json.loads(line)
                asked = entry.pop("request")
                self._known[asked] = Answer(**entry)
            except (ValueError, KeyError, TypeError):
                continue  # The line that a killed writer was at: that row is asked again.

    def get(self, body: dict[str, Any]) -> Answer | None:
        return self._known.get(digest(body))

    def put(self, body: dict[str, Any], answer: Answer) -> None:
        self._known[digest(body)] = answer
        with self._path.open("a") as file:
            # The line break in front ends a line that a killed writer left unfinished.
            file.write("\n" + json.dumps({"request": digest(body), **asdict(answer)}))


async def _replay(
    run: Run, rows: list[Row], versions: tuple[str, str], scorer: Scorer
) -> tuple[list[Score], list[Score]]:
    """Scores of the rows for both versions. Rows in flight alternate between them, so both meet the same load."""
    settings = run.recipe.evaluation
    deployment = Deployment(run.settings, settings)
    kept = {version: Answers(run.state, version) for version in versions}
    places = asyncio.Semaphore(settings.concurrency)
    progress = _Progress(run, len(rows) * len(versions))

    async def one(row: Row, version: str) -> tuple[Answer, Score]:
        path, body = request(row, settings)
        async with places:
            answer = kept[version].get(body)
            if answer is None:
                answer = _heard(row, await deployment.ask(version, path, body))
                if answer.message is not None:
                    kept[version].put(body, answer)
            score = await _score(scorer, row, answer)
        progress.tick()
        return answer, score

    try:
        async with asyncio.TaskGroup() as tasks:
            both = [tuple(tasks.create_task(one(row, version)) for version in versions) for row in rows]
    except ExceptionGroup as group:
        # One sentence for the user: the first failure; the others were cancelled or say the same.
        raise group.exceptions[0] from None
    finally:
        await deployment.close()
    for side, version in enumerate(versions):
        refusals = [pair[side].result()[0].refusal for pair in both]
        if rows and all(refusals):
            raise ValueError(f"the deployment refused every request to {version}: {refusals[0]}")
    return tuple([pair[side].result()[1] for pair in both] for side in (0, 1))  # type: ignore[return-value]


def _heard(row: Row, reply: Reply) -> Answer:
    if reply.body is None:
        return Answer(None, None, reply.refusal)
    choice = reply.body["choices"][0]
    if row.origin != "document":
        return Answer(message(choice["message"]), choice["finish_reason"])
    known = [each for each in choice["logprobs"]["token_logprobs"] if each is not None]  # the first has none
    mean = sum(known) / max(1, len(known))
    return Answer({**row.messages[0], "mean_logprob": mean}, "stop")


async def _score(scorer: Scorer, row: Row, answer: Answer) -> Score:
    if answer.message is None:
        return Score(0.0, False)
    score = await scorer(row, answer.message)
    return score if answer.finish_reason != "length" else Score(score.value, False, score.parts)


def _compare(rows: list[Row], candidate: list[Score], champion: list[Score]) -> dict[str, Any]:
    scored = [
        asdict(Scored(row.row_id, row.slice, row.session, new.value, old.value, new.well_formed))
        for row, new, old in zip(rows, candidate, champion, strict=True)
    ]
    return {"rows": scored, "metrics": {"candidate": _means(candidate), "champion": _means(champion)}}


def _means(scores: list[Score]) -> dict[str, float]:
    """Means over the rows; a part that a row has not (it was refused) counts as 0."""
    names = sorted({name for score in scores for name in score.parts})
    n = max(len(scores), 1)
    return {
        "score": sum(score.value for score in scores) / n,
        "well_formed": sum(score.well_formed for score in scores) / n,
        **{name: sum(score.parts.get(name, 0.0) for score in scores) / n for name in names},
    }


class _Progress:
    def __init__(self, run: Run, total: int) -> None:
        self._run, self._total, self._done, self._said = run, total, 0, time.monotonic()

    def tick(self) -> None:
        self._done += 1
        if time.monotonic() - self._said > 5 or self._done == self._total:
            self._said = time.monotonic()
            self._run.say(f"evaluate   {self._done} of {self._total} answers")
