"""The seed model's corpus: scenes of tools and requests, all generated, deterministic for a seed.

A scene is one toolset with many conversations about it, so that training pays for the tools' tokens once (`packing`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.seed.composed import composed, drill
from pipelines.seed.domains import EVERYDAY
from pipelines.seed.house import HOUSE, plain
from pipelines.seed.jobs import family, job, order
from pipelines.seed.realise import Offer, ask, call, offer
from pipelines.seed.talk import answer, ask_back, chat, decline

Row = dict[str, Any]
"""OpenAI's fine-tuning form: `{"messages": [...], "tools": [...]}`; the last message is the assistant's answer."""


@dataclass(frozen=True)
class Scene:
    """`tools` in OpenAI's form; `conversations` are lists of messages that all see these tools."""

    tools: list[dict[str, Any]]
    conversations: list[list[dict[str, Any]]]

    def rows(self) -> list[Row]:
        return [{"messages": messages, "tools": self.tools} for messages in self.conversations]


def toolset(rng: random.Random, drills: float) -> list[Offer]:
    """1 to 8 tools with distinct names. `drills` is the share of scenes in which every word is invented."""
    style = rng.choice(("snake", "snake", "snake", "camel", "pascal"))
    pick = rng.random()
    if pick < drills:
        tools = [drill(rng) for _ in range(rng.choice((1, 1, 2, 3, 4)))]
    else:
        count = rng.choice((1, 2, 3, 4, 5, 6, 7, 8))
        own = count if pick > drills + 0.25 * (1 - drills) else rng.randint(0, count // 2)
        tools = rng.sample(EVERYDAY, own) + [composed(rng) for _ in range(count - own)]
    offers = {o.name: o for o in (offer(t, style, rng) for t in tools)}
    shuffled = list(offers.values())
    rng.shuffle(shuffled)
    return shuffled


def converse(offers: list[Offer], rng: random.Random) -> list[dict[str, Any]]:
    """One conversation: mostly one request and its call; now and then talk, results, questions, several turns."""
    request = ask(rng.choice(offers), rng)
    user = {"role": "user", "content": request.text}
    pick = rng.random()
    if pick < 0.02:
        return chat(rng)
    if pick < 0.03:
        return decline(rng)
    if pick < 0.05 and request.arguments:
        return [user, call(request), *answer(request, rng)]
    if pick < 0.07 and request.arguments:
        return [*ask_back(request, rng), call(request)]
    if pick < 0.09:
        return [*chat(rng), user, call(request)]
    if pick < 0.11:
        earlier = ask(rng.choice(offers), rng)
        return [{"role": "user", "content": earlier.text}, call(earlier), *answer(earlier, rng), user, call(request)]
    system = [{"role": "system", "content": "You are a helpful assistant."}] if pick < 0.14 else []
    return [*system, user, call(request)]


def scene(rng: random.Random, drills: float = 0.35) -> Scene:
    offers = toolset(rng, drills)
    return Scene([o.schema() for o in offers], [converse(offers, rng) for _ in range(rng.randint(8, 14))])


def jobs(rng: random.Random) -> Scene:
    """A scene of an agent's: most of it jobs of several calls, some of it single requests."""
    tools = family(rng, rng.choice(("snake", "snake", "snake", "camel", "pascal")))
    single = {each.name: each for each in toolset(rng, 0.2)[: rng.choice((0, 0, 1, 2, 3))]}
    offers = {**{skill.offer.name: skill.offer for skill in tools.skills}, **single}
    shuffled = list(offers.values())
    rng.shuffle(shuffled)
    drawn = []
    for _ in range(rng.randint(8, 14)):
        if single and rng.random() < 0.3:
            drawn.append([*(order(rng) if rng.random() < 0.7 else []), *converse(list(single.values()), rng)])
        else:
            drawn.append(job(tools, rng))
    return Scene([each.schema() for each in shuffled], drawn)


def scenes(seed: int, first: int = 0, early: int = 0, late: int | None = None) -> Iterator[Scene]:
    """Scenes without end, each a function of (`seed`, index) alone, so that a run can resume at any index.

    The share of drills falls from 0.75 to 0.3 over the first `early` scenes: copying first, meaning after. From scene
    `late` on, every other one is an agent's.
    """
    index = first
    while True:
        drills = 0.3 + 0.45 * max(0.0, 1 - index / early) if early else 0.3
        rng = random.Random(f"{seed}/{index}")
        yield jobs(rng) if late is not None and index >= late and index % 2 else scene(rng, drills)
        index += 1


def replay(n: int, seed: int) -> list[Row]:
    """`n` rows of the pre-training corpus, to mix into fine-tuning against forgetting."""
    rows: list[Row] = []
    for drawn in scenes(seed, late=0):
        rows += drawn.rows()
        if len(rows) >= n:
            return rows[:n]
    raise AssertionError("scenes() never ends")


HELD_OUT = [Offer(t.names[0], tuple((p.names[0], p) for p in t.params), t) for t in HOUSE]
HELD_OUT_TOOLS = [offered.schema() for offered in HELD_OUT]


def traffic(rows: int, seed: int) -> list[dict[str, Any]]:
    """The demo's live requests, from the held-out domains: `{"text", "tool", "arguments"}`, values copied from the
    text."""
    rng = random.Random(f"traffic/{seed}")
    drawn: list[dict[str, Any]] = []
    seen = set()
    while len(drawn) < rows:
        request = ask(rng.choice(HELD_OUT), rng, plain)
        if request.arguments and request.text not in seen:
            seen.add(request.text)
            drawn.append({"text": request.text, "tool": request.tool, "arguments": request.arguments})
    return drawn
