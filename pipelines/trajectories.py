"""Runs of agents as something to learn from: the journal's steps and the model's records made into conversations.

A run's steps (`cluster.records.Step`) say how it went: its task, which requests its model answered, which calls failed,
what it was worth. The records of those requests say what the model read and wrote, exactly. Of both:

    steps    -> Told       a run in a few words (`fold`), and what it was worth (`reward`)
    records  -> Journey    one conversation with all turns that the model wrote in it (`journeys`)
    journeys -> Journey    where runs of one task went apart, the better turn and the worse (`preferences`)

Pairs are formed at the first different turn behind the same conversation, by the mean reward of the runs through each:
what Lai et al., "Step-DPO", 2024 (https://arxiv.org/abs/2406.18629) do for steps of reasoning.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cluster.records import Message
from pipelines.recipe import RunSettings
from pipelines.targets import Logged, Unusable, given_options, whole

TASK = "task:"
"""Before the name of a task template, where it stands among sessions."""
BRIEF = frozenset({"start", "claim", "model", "result", "reward", "end"})
"""Events that say how a run went (`services/agents/journal.py` has them all)."""


class Said(msgspec.Struct, omit_defaults=True):
    """What of a step's body is of interest here, whatever its event."""

    task: str | None = None
    """As a text in the log, as a digest in a brief."""
    task_template: str | None = None
    metadata: dict[str, Any] | None = None
    request_id: str | None = None
    failed: bool = False
    invalid: bool = False
    score: float | None = None
    source: str | None = None
    state: str | None = None


class Brief(msgspec.Struct):
    """A step, without what is large in it."""

    run: str
    number: int
    time: float
    session: str
    agent: str
    source: str
    event: str
    body: Said


class Sampled(msgspec.Struct):
    """What the engine said of its tokens, in a step's body."""

    request_id: str = ""
    token_ids: list[int] | None = None
    logprobs: Any = None


class _Event(msgspec.Struct):
    event: str


class _Step(msgspec.Struct):
    run: str
    number: int
    event: str
    body: Sampled


@dataclass
class Asked:
    """A turn of the model."""

    number: int
    """Of the step."""
    request_id: str
    calls: int = 0
    failed: int = 0
    """Calls of it that failed."""


@dataclass
class Told:
    """A run as its journal tells it."""

    run: str
    session: str = ""
    agent: str = ""
    task: str = ""
    """Digest of agent and task: runs that were told the same have the same."""
    template: str | None = None
    started: float | None = None
    state: str = ""
    """As it ended; empty while it goes on."""
    steps: list[int] = field(default_factory=list)
    turns: list[Asked] = field(default_factory=list)
    rewards: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By source: when, and how much; the latest of each."""

    def add(self, time: float, source: str, score: float) -> None:
        if source not in self.rewards or (time, score) >= self.rewards[source]:
            self.rewards[source] = (time, score)

    @property
    def newest(self) -> float:
        """When it was last rewarded."""
        return max(time for time, _ in self.rewards.values())


class Turn(msgspec.Struct):
    """One of the model's messages in a journey."""

    place: int
    request_id: str
    version: str
    learn: bool
    """False for what is only read: cut off, corrected by somebody, or with calls that all failed."""
    token_ids: list[int] | None = None
    logprobs: Any = None


class Journey(Logged):
    """A run's conversation. `request_id` names it, `session` is the run's thread; the last message is the model's."""

    run: str = ""
    agent: str = ""
    key: str = ""
    """What is held out with it: `task:TEMPLATE`, or the session."""
    sessions: list[str] = []
    """All that it came from."""
    reward: float = 0.0
    source: str = ""
    turns: list[Turn] = []
    record_ids: list[str] = []
    """Ids of the log's rows that it came from: records and steps."""
    rejected: Message | None = None
    """Of a preference: what another run said in place of the last message."""


_event = msgspec.json.Decoder(_Event).decode
_brief = msgspec.json.Decoder(Brief).decode
packed = msgspec.msgpack.Encoder().encode
"""A brief as bytes, and back."""
unpacked = msgspec.msgpack.Decoder(Brief).decode
logged = msgspec.json.Decoder(Logged).decode
"""A record of the log."""
_step = msgspec.json.Decoder(_Step).decode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def brief(body: str) -> Brief | None:
    """A step of the log in a few words; None for an event that says nothing of how the run went."""
    if _event(body).event not in BRIEF:
        return None  # what else its body says is its own affair
    told = _brief(body)
    said = told.body
    if told.event == "start":
        said.task = _digest([told.agent, said.task])
        given = said.task_template or (said.metadata or {}).get("task_template")
        said.task_template, said.metadata = str(given) if given else None, None
    return told


def sampled(body: str) -> Sampled:
    """The tokens in a model's step."""
    return _step(body).body


def fold(steps: Iterable[Brief]) -> dict[str, Told]:
    """Runs out of their steps, whatever order these come in.

    As in the journal, a step counts if the run's owner wrote it, who wrote `start` or the last `claim`; rewards are
    anybody's.
    """
    runs: dict[str, Told] = {}
    owners: dict[str, str] = {}
    counted: set[tuple[str, int]] = set()
    for step in sorted(steps, key=lambda step: (step.run, step.number, step.event != "claim", step.time)):
        told = runs.setdefault(step.run, Told(step.run, step.session, step.agent))
        said = step.body
        if step.event == "claim" or step.run not in owners:
            owners[step.run] = step.source
        if step.event != "reward":
            if step.source != owners[step.run] or (step.run, step.number) in counted:
                continue
            counted.add((step.run, step.number))
        if step.number not in told.steps[-1:]:
            told.steps.append(step.number)
        match step.event:
            case "start":
                told.started, told.task, told.template = step.time, said.task or "", said.task_template
            case "model" if said.request_id:
                told.turns.append(Asked(step.number, said.request_id))
            case "result" if told.turns:
                told.turns[-1].calls += 1
                told.turns[-1].failed += said.failed or said.invalid
            case "reward" if said.score is not None:
                told.add(step.time, said.source or "", min(1.0, max(0.0, said.score)))
            case "end":
                told.state = said.state or ""
    return runs


def reward(told: Told, sources: tuple[str, ...]) -> tuple[float, str]:
    """What a run was worth, and who says so: the most trusted source that spoke."""
    places = {source: place for place, source in enumerate(sources)}
    ranked = sorted(told.rewards.items(), key=lambda each: (places.get(each[0], len(places)), -each[1][0], each[0]))
    source, (_, score) = ranked[0]
    return score, source


def chosen(runs: Iterable[Told], settings: RunSettings) -> list[Told]:
    """The runs that are learnt from, newest first: ended, rewarded, and for preferences not alone with their task."""
    ended = {"trajectories": {"completed"}, "preferences": {"completed", "failed"}, "nothing": set()}[settings.learn]
    found = [told for told in runs if told.started is not None and told.rewards and told.state in ended]
    found = sorted(found, key=lambda told: (-told.newest, told.run))[: settings.max_runs]
    if settings.learn != "preferences":
        return found
    rewards: dict[str, list[float]] = defaultdict(list)
    for told in found:
        rewards[told.task].append(reward(told, settings.sources)[0])
    apart = {task for task, given in rewards.items() if max(given) - min(given) >= settings.min_gap}
    return [told for told in found if told.task in apart]


def touched(runs: Iterable[Told]) -> dict[str, list[str]]:
    """By session: the task templates of all runs in it. What it says may stem from any of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for told in runs:
        if told.template:
            found[told.session].add(TASK + told.template)
    return {session: sorted(templates) for session, templates in found.items()}


def journeys(
    told: Told,
    records: Mapping[str, Logged],
    tokens: Mapping[str, Sampled],
    corrected: frozenset[str] | set[str],
    sources: tuple[str, ...],
) -> Iterator[Journey]:
    """The conversations of a run: one, unless its agent rewrote what had been said (to save tokens, say).

    `records` and `tokens` by request id. A request whose record is not there, or no whole
    exchange, ends a conversation: what came after it starts another.
    """
    worth = reward(told, sources)
    key = TASK + told.template if told.template else told.session
    chain: Journey | None = None
    made = 0
    for asked in told.turns:
        record = records.get(asked.request_id)
        usable = record is not None and _whole(record)
        if chain and not (record and usable and _goes_on(chain, record)):
            yield chain
            chain = None
        if record is None or not usable:
            continue
        if chain is None:
            made += 1
            chain = Journey(
                request_id=told.run if made == 1 else f"{told.run}#{made}",
                time=record.time,
                session=told.session,
                tools=record.tools,
                run=told.run,
                agent=told.agent,
                key=key,
                sessions=[told.session],
                reward=worth[0],
                source=worth[1],
                record_ids=[f"{told.run}/{number}" for number in told.steps],
                sampling=given_options(record),
            )
        assert record.answer is not None
        chain.messages = [*record.messages, record.answer]
        chain.record_ids = [*chain.record_ids, asked.request_id]
        useless = asked.calls > 0 and asked.calls == asked.failed
        given = tokens.get(asked.request_id) or Sampled()
        chain.turns = [
            *chain.turns,
            Turn(
                place=len(record.messages),
                request_id=asked.request_id,
                version=record.version,
                learn=not (useless or record.finish_reason == "length" or asked.request_id in corrected),
                token_ids=given.token_ids,
                logprobs=given.logprobs,
            ),
        ]
    if chain:
        yield chain


def _whole(record: Logged) -> bool:
    try:
        whole(record)
    except Unusable:
        return False
    return record.answer is not None


def _goes_on(chain: Journey, record: Logged) -> bool:
    """Whether a request begins with all that was said before it, under the same conditions."""
    before = len(chain.messages)
    return (
        len(record.messages) >= before
        and bytes(record.tools) == bytes(chain.tools)
        and given_options(record) == chain.sampling
        and [meant(message) for message in record.messages[:before]] == [meant(m) for m in chain.messages]
    )


def preferences(found: Iterable[Journey], min_gap: float) -> Iterator[Journey]:
    """Where runs of one task went apart: a journey up to the better turn, and the worse one as `rejected`.

    All turns that were said behind the same conversation are branches; each is worth the mean reward of the runs that
    took it. The best branch is preferred to the worst, if `min_gap` or more lies between them.
    """
    forks: dict[bytes, dict[bytes, list[tuple[Journey, Turn]]]] = defaultdict(lambda: defaultdict(list))
    for journey in sorted(found, key=lambda journey: (-journey.reward, journey.request_id)):
        for turn in journey.turns:
            behind = [[meant(message) for message in journey.messages[: turn.place]], bytes(journey.tools).decode()]
            answer = meant(journey.messages[turn.place])
            forks[_identity(behind)][_identity(answer)].append((journey, turn))
    for _, branches in sorted(forks.items()):
        worth = {key: sum(journey.reward for journey, _ in taken) / len(taken) for key, taken in branches.items()}
        order = sorted(branches, key=lambda key: (worth[key], key))
        better = [key for key in reversed(order) if any(turn.learn for _, turn in branches[key])]
        if not better or worth[better[0]] - worth[order[0]] < min_gap:
            continue
        good, turn = next((journey, turn) for journey, turn in branches[better[0]] if turn.learn)
        bad, other = branches[order[0]][-1]
        yield Journey(
            request_id=f"{turn.request_id}>{other.request_id}",
            time=good.time,
            session=good.session,
            messages=good.messages[: turn.place + 1],
            tools=good.tools,
            sampling=good.sampling,
            run=good.run,
            agent=good.agent,
            key=good.key,
            sessions=sorted({*good.sessions, *bad.sessions}),
            reward=good.reward,
            source=good.source,
            turns=[turn],
            record_ids=sorted({*good.record_ids, *bad.record_ids}),
            rejected=bad.messages[other.place],
        )


def meant(message: Message) -> Any:
    """A message without what says nothing: ids of calls, the order of arguments, null beside an empty text."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    calls = [call.get("function") or {} for call in message.get("tool_calls") or []]
    return [message.get("role"), content, [[call.get("name"), _parsed(call.get("arguments"))] for call in calls]]


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return arguments


def _identity(value: Any) -> bytes:
    return hashlib.blake2b(_canonical(value), digest_size=16).digest()


def _digest(value: Any) -> str:
    return _identity(value).hex()
