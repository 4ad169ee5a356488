"""What the packages exchange: frozen, versioned records. One legend: `*_s` seconds, `time` Unix seconds (UTC)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

Message = dict[str, Any]
"""A chat message in OpenAI's form: `role`, `content`, `tool_calls`, `tool_call_id`."""


class Frozen(BaseModel):
    """A record: immutable, and tolerant of keys that a newer writer added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Record(Frozen):
    """One answered request: everything needed to train on it and to audit it."""

    kind: Literal["record"] = "record"
    schema_version: int = 1
    request_id: str
    time: float
    """When the request arrived."""
    principal: str
    """Id of the API key that asked."""
    session: str
    """`x-session-id`, else the request id: requests of one session never straddle training and holdout."""
    endpoint: str
    """Path that was called, such as `/v1/chat/completions`."""
    alias: str | None = None
    """What the caller asked for, if it was an alias."""
    version: str
    """Which version answered, `name@n`; `name@0` is the base itself."""
    arm: Literal["champion", "candidate", "shadow", "direct"] = "direct"
    """Which side of a rollout answered; `direct` when the caller named a version or a base."""
    shadow_of: str | None = None
    """Request id whose user got another version's answer; this one (arm `shadow`) nobody saw."""
    messages: list[Message] = []
    tools: list[dict[str, Any]] = []
    sampling: dict[str, Any] = {}
    """Everything else of the request body that shapes the answer: temperature, tool_choice, response_format, ..."""
    answer: Message | None = None
    """The assistant's message, put together from the deltas where the answer was streamed."""
    alternatives: list[Message] = []
    """The other choices, where the caller asked for more than one (`n`)."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    streamed: bool = False
    stored: bool = True
    """False after OpenAI's `store: false`: messages, tools and answer were left out."""
    disconnected: bool = False
    """The client hung up before it had the whole answer."""
    status: int = 200
    error: str | None = None
    ttft_s: float | None = None
    latency_s: float


class Feedback(Frozen):
    """What somebody thought of one answer. A later one of the same source replaces the earlier."""

    kind: Literal["feedback"] = "feedback"
    schema_version: int = 1
    request_id: str
    time: float
    principal: str
    source: str = "user"
    score: float = Field(ge=0, le=1)
    correction: Message | None = None
    """The assistant's message as it should have been."""
    comment: str | None = None


class Step(Frozen):
    """One entry of the journal of an agent's run (`services/agents/journal.py` says what the events mean)."""

    kind: Literal["step"] = "step"
    schema_version: int = 1
    request_id: str
    """`RUN/NUMBER`."""
    time: float
    principal: str
    """Id of the API key that the run works for."""
    session: str
    """The run's thread, which is the session of its model's records too."""
    run: str
    number: int
    """Place in the journal, from 0."""
    agent: str
    source: str
    """Who wrote it: the log's writer of one replica."""
    event: str
    body: dict[str, Any] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def score(self) -> float | None:
        """Of a reward: the log's table has it as a column, as it has feedback's."""
        return self.body.get("score") if self.event == "reward" else None


Entry = Record | Feedback | Step
"""What the log holds."""


class Version(Frozen):
    """One immutable version of an alias, as `models/NAME/N/version.json` under state holds it."""

    schema_version: int = 1
    name: str
    number: int
    base: str
    """Base model id that it is served on."""
    form: Literal["base", "adapter", "full"]
    rank: int | None = None
    """LoRA rank of an adapter."""
    parent: str | None = None
    created: float
    lineage: Lineage | None = None
    files: dict[str, str] = {}
    """SHA-256 of each file beside `version.json`; empty for a base, and where an older release made the version."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.number}"


class Lineage(Frozen):
    """Where a version comes from."""

    cycle: str
    rows: int
    """Training rows that came from the log."""
    replay_rows: int
    table_version: int | None
    """Version of the log's Delta table that was read; None where the rows are documents."""
    dataset: str
    """Folder under `datasets/` that holds the rows."""
    dataset_digest: str
    recipe: str
    recipe_digest: str
    code_revision: str
    metrics: dict[str, float] = {}


class Verdict(Frozen):
    """The gate's decision with all its numbers."""

    accepted: bool
    reasons: list[str]
    candidate: str
    champion: str
    rows: int
    candidate_score: float
    champion_score: float
    gain: float
    gain_low: float
    """Lower end of the one-sided 95 % confidence bound of the gain (paired bootstrap)."""
    slices: dict[str, dict[str, float]] = {}
    """By tool: `rows`, `candidate`, `champion`, `gain_high` (upper one-sided 95 % bound of the gain)."""
    well_formed: float
    """Share of the candidate's answers that were well-formed."""


class Evidence(Frozen):
    """What live traffic said of a candidate beside the champion, and how sure that is (`services/canary.py`)."""

    records: int
    """The candidate's answers that have feedback."""
    candidate_sessions: int
    champion_sessions: int
    candidate_score: float | None = None
    champion_score: float | None = None
    alpha: float
    """Chance of a false decision that this canary may use up; a ground is proven from an e-value of 1/alpha on."""
    better: float
    """E-value against "the candidate is no better"."""
    worse: float
    """E-value against "it is no worse"; the next two likewise, each of the three with a third of alpha."""
    more_errors: float
    slower: float


class Decision(Frozen):
    """One entry of the decision log, `rollout/NNNNNNNN.json` under state. The last ones for an alias are the alias."""

    schema_version: int = 1
    sequence: int
    time: float
    action: Literal["create", "stage", "canary", "promote", "reject", "rollback"]
    alias: str
    version: str
    """The version that the action is about: `promote` and `rollback` make it the champion."""
    base: str
    """Base model id of that version."""
    actor: str
    """Principal that asked; `rollout` where live traffic decided."""
    reason: str
    verdict: Verdict | None = None
    """What the gate said, where a cycle asks."""
    share: float | None = None
    """Of a canary: share of the alias's sessions that the version answers."""
    shadow: bool = False
    """Of a canary: it answers beside the champion, and nobody sees what it says."""
    evidence: Evidence | None = None
    """What live traffic said, where it decided."""
    previous: str = ""
    """`digest` of the entry before; empty for the first."""
    digest: str = ""
    """SHA-256 of this entry without this field: the log is a chain (`cluster/decisions.py`)."""


class Move(Frozen):
    """A training made way for serving, or took back what serving did not need (`cluster/arbiter.py`)."""

    time: float
    kind: Literal["pause", "shrink", "grow"]
    workers: int
    """That there are from then on; in a pause they stand still."""
    most: int
    reason: str
    times: int = 1
    """Of a pause: how many there were, one soon after the other."""
    seconds: float | None = None
    """Of a pause: how long all of them took; None while the first one lasts."""


Version.model_rebuild()
