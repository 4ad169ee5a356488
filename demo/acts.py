"""What both plays do: start the cluster, wait for a turn of the wheel, let users decide about a candidate."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from demo.command import answer, trivium
from demo.story import Story
from demo.turn import Turn, Watch

Users = Callable[[], Awaitable[tuple[int, int] | None]]
"""More users come; how many requests and sessions of theirs there were since the canary began. None: nobody is left."""


def up(story: Story, *options: str) -> None:
    with story.chapter("up", "The cluster: Ray, vLLM, the gateway and its log"), story.waiting() as seen:
        trivium("up", *options, seen=seen)


async def turn(story: Story, watch: Watch, cycle: int, known: str | None, patience_s: float) -> Turn:
    """The wheel's next turn after the one `known`."""
    with story.chapter("wheel", "The wheel: it has feedback now, and turns by itself"), story.turning() as seen:
        made = await watch.next_turn(known, patience_s, seen)
    story.timings_s.update({f"cycle {cycle}/{step}": seconds for step, seconds in made.steps_s.items()})
    story.verdict(made.verdict, made.outcome)
    return made


async def canary(
    story: Story, watch: Watch, alias: str, candidate: str, patience_s: float, users: Users
) -> dict[str, Any] | None:
    """Users go on asking, some of them the candidate, until what comes of it has decided; None if it did not."""
    requests, begun = 0, time.monotonic()
    with story.chapter("canary", f"The canary: some users get {candidate} now, and what they say decides"):
        while await watch.canary(alias) is not None:
            came = await users() if time.monotonic() - begun < patience_s else None
            if came is None:
                story.say(f"not decided yet, and no more users come: `trivium promote {candidate}`")
                return None
            requests, sessions = came
            if seen := await watch.judged(alias, sessions):
                story.say(f"[dim]{seen['share']:.0%} of the sessions; {seen.get('reason', '')}[/dim]")
        told = answer("lineage", candidate, "--json")["decisions"][-1]
    ended = {
        "candidate": candidate,
        "promoted": told["action"] == "promote",
        "reason": told["reason"],
        "evidence": told["evidence"],
        "requests": requests,
        "took_s": round(time.monotonic() - begun, 1),
    }
    story.canary(ended)
    return ended
