"""What Prometheus sees: metrics through Ray's own agents, one on every node (`ray-metrics` in cluster/ports.py).

The facts are told where they are known: an answer by the gateway, an fsync by the log's writer, what waits to be learnt
by the wheel. A call into Ray's metrics crosses into C++ and takes 3 us to 6 us (two cores of an AMD EPYC, under load),
and an answer needs eight. So whoever tells a fact only leaves it here, in about 1 us, and a thread passes it on:
counts summed up, one call for each sum; times one call each; the time between tokens as the mean of an answer, because
one observation for each token would cost a batch of 16 streams 60 us a step. The same thread makes the spans
(`cluster/spans.py`). It comes ten times a second, so that it never holds the interpreter's lock for long.

Ray forgets a gauge 20 s (two of its reports) after it was last set: the thread sets all of them again every 5 s, and a
process that is gone takes its gauges with it, and what it counted in its last 10 s. Ray puts `ray_` before the names
and adds labels of its own, such as `WorkerId`; ours are aliases, versions, arms, applications, never who asked or what.

Without Ray (tests, the command line) nothing is collected.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from cluster.decisions import Rollout
from cluster.records import Record
from cluster.spans import Spans, wanted

if TYPE_CHECKING:
    from cluster.log.store import LogStats

logger = logging.getLogger(__name__)

FLUSH_S = 0.1
GAUGES_S = 5.0
MOST_FACTS = 100_000
"""Kept until the thread comes; beyond it the oldest go, because a picture of the load must not add to it."""

Labels = tuple[str, ...]


def doubling(first: float, count: int) -> tuple[float, ...]:
    """Bounds of a histogram, each twice the one before: a quantile read from it is off by a factor of 2 at most."""
    return tuple(first * 2**step for step in range(count))


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric's definition. Prometheus' conventions: base units in the name, `_total` for what only grows."""

    kind: Literal["count", "gauge", "time"]
    name: str
    says: str
    labels: Labels = ()
    """Beside `app`, the Serve application that tells it, which all have."""
    bounds_s: tuple[float, ...] = ()


WHO = ("alias", "version", "arm")
"""Who answered as what; `alias` is empty where the caller named a version or a base."""

REQUESTS = Metric("count", "trivium_requests_total", "Answered requests, by class of status.", (*WHO, "status"))
PROMPT_TOKENS = Metric("count", "trivium_prompt_tokens_total", "Tokens that were read.", WHO)
COMPLETION_TOKENS = Metric("count", "trivium_completion_tokens_total", "Tokens that were written.", WHO)
LATENCY = Metric("time", "trivium_request_seconds", "From arrival to the whole answer.", WHO, doubling(0.01, 17))
TTFT = Metric("time", "trivium_time_to_first_token_seconds", "From arrival to a first byte.", WHO, doubling(0.001, 16))
INTER_TOKEN = Metric("time", "trivium_inter_token_seconds", "Between a stream's tokens.", WHO, doubling(0.0005, 12))
IN_FLIGHT = Metric("gauge", "trivium_requests_in_flight", "Requests that are being answered.", WHO)
REFUSALS = Metric("count", "trivium_refusals_total", "Requests that were turned away.", ("status", "code"))
FEEDBACK = Metric("count", "trivium_feedback_total", "Feedback that came in.")
SCORES = Metric("count", "trivium_feedback_score_total", "Sum of its scores.")
ADAPTERS = Metric("gauge", "trivium_adapters", "Adapters that a replica's engine holds.")

ENTRIES = Metric("count", "trivium_log_entries_total", "Entries that were brought to disk.")
SYNC = Metric("time", "trivium_log_sync_seconds", "One write and fsync of the log.", (), doubling(0.0001, 16))
LAG = Metric("gauge", "trivium_log_lag_entries", "Entries that are not in the table yet.")
LAG_BYTES = Metric("gauge", "trivium_log_lag_bytes", "The same, in bytes.")
ROWS = Metric("gauge", "trivium_log_table_rows", "Rows of the table.")
DAMAGED = Metric("gauge", "trivium_log_damaged_segments", "Segments put aside because they could not be read.")

WHEEL_ON = Metric("gauge", "trivium_wheel_on", "1 if the wheel is switched on.", ("alias",))
WHEEL_FRESH = Metric("gauge", "trivium_wheel_fresh_feedback", "Answers with feedback that no cycle saw.", ("alias",))
WHEEL_WANTED = Metric("gauge", "trivium_wheel_min_feedback", "How many of them start a cycle.", ("alias",))
WHEEL_SCORE = Metric("gauge", "trivium_wheel_live_score_ratio", "Mean score of the newest feedback.", ("alias",))
WHEEL_CYCLE = Metric("gauge", "trivium_wheel_cycle_running", "1 while a cycle runs.", ("alias",))

CHAMPION = Metric("gauge", "trivium_rollout_champion_number", "Number of the version that answers.", ("alias",))
STAGED = Metric("gauge", "trivium_rollout_staged_number", "Number of the candidate; absent without one.", ("alias",))
SHARE = Metric("gauge", "trivium_rollout_canary_share_ratio", "Share of sessions that it answers.", ("alias",))
DECISIONS = Metric("gauge", "trivium_rollout_sequence", "Number of the newest decision.")

RUNS = Metric("gauge", "trivium_agent_runs", "Runs of agents that are at work, or wait for a person.", ("state",))
ENDED = Metric("count", "trivium_agent_runs_ended_total", "Runs that ended, by how.", ("agent", "state"))
TOOL_CALLS = Metric("count", "trivium_tool_calls_total", "What the policy said to calls.", ("agent", "tool", "effect"))
TOOL_FAILURES = Metric("count", "trivium_tool_failures_total", "Calls whose result is an error.", ("agent", "tool"))

METRICS = [each for each in globals().values() if isinstance(each, Metric)]


class Fact(NamedTuple):
    """One thing to count, or one time."""

    metric: Metric
    labels: Labels
    value: float


class Answer(NamedTuple):
    """One answered request, and the `traceparent` header that came with it."""

    record: Record
    traceparent: bytes | None


class Sink(Protocol):
    """Where facts are passed on to: Ray."""

    def tell(self, fact: Fact) -> None: ...


# Telling: what the rest of Trivium calls


def answered(record: Record, traceparent: bytes | None = None) -> None:
    """An answer has its record. Counted, timed and, if spans are wanted, exported as one."""
    if feed := _running(wanted()):
        feed.facts.append(Answer(record, traceparent))


def arrived(alias: str | None, version: str, arm: str) -> None:
    """A request begins to be answered; `left` with the same words ends it."""
    if feed := _running():
        feed.in_flight[alias or "", version, arm] += 1


def left(alias: str | None, version: str, arm: str) -> None:
    if feed := _running():
        feed.in_flight[alias or "", version, arm] -= 1


def refused(status: int, code: str | None) -> None:
    """The gateway turned a request away. `code` is one of ours, so there are few."""
    _tell(REFUSALS, (str(status), code or ""), 1)


def rated(score: float) -> None:
    _tell(FEEDBACK, (), 1)
    _tell(SCORES, (), score)


def synced(took_s: float, entries: int) -> None:
    _tell(SYNC, (), took_s)
    _tell(ENTRIES, (), entries)


def adapters(held: int) -> None:
    _set(ADAPTERS, (), held)


def log(stats: LogStats) -> None:
    _set(LAG, (), stats.lag_entries)
    _set(LAG_BYTES, (), stats.lag_bytes)
    _set(ROWS, (), stats.table_rows)
    _set(DAMAGED, (), stats.damaged)


def wheel(alias: str, on: bool, fresh: int, wanted: int, score: float | None, running: bool) -> None:
    _set(WHEEL_ON, (alias,), on)
    _set(WHEEL_FRESH, (alias,), fresh)
    _set(WHEEL_WANTED, (alias,), wanted)
    _set(WHEEL_SCORE, (alias,), score)
    _set(WHEEL_CYCLE, (alias,), running)


def rollout(now: Rollout) -> None:
    _set(DECISIONS, (), now.sequence)
    for alias in now.aliases.values():
        canary = alias.canary
        _set(CHAMPION, (alias.name,), _number(alias.champion))
        _set(STAGED, (alias.name,), _number(alias.staged) if alias.staged else None)
        _set(SHARE, (alias.name,), canary.share if canary else 0)


def runs(working: int, waiting: int) -> None:
    """Of agents, in this process."""
    _set(RUNS, ("working",), working)
    _set(RUNS, ("input-required",), waiting)


def run_ended(agent: str, state: str) -> None:
    _tell(ENDED, (agent, state), 1)


def call_decided(agent: str, tool: str, effect: str) -> None:
    """The policy said something to a call; `tool` is one that there is, so there are few."""
    _tell(TOOL_CALLS, (agent, tool, effect), 1)


def call_failed(agent: str, tool: str) -> None:
    _tell(TOOL_FAILURES, (agent, tool), 1)


def flush() -> None:
    """Pass on what was told, and have the spans exported: before a process ends."""
    if _feed is not None:
        _feed.flush()
        if _feed.spans:
            _feed.spans.flush()


def _tell(metric: Metric, labels: Labels, value: float) -> None:
    if feed := _running():
        feed.facts.append(Fact(metric, labels, value))


def _set(metric: Metric, labels: Labels, value: float | None) -> None:
    if feed := _running():
        feed.gauges[metric, labels] = value


def _number(version: str) -> int:
    return int(version.rpartition("@")[2])


# Passing on


class Feed:
    """What was told and is not passed on yet. Any thread tells, one passes on."""

    def __init__(self, open_sinks: Callable[[], tuple[Sink | None, Spans | None]]) -> None:
        self._open = open_sinks
        self.sink: Sink | None = None
        self.spans: Spans | None = None
        self.facts: deque[Fact | Answer] = deque(maxlen=MOST_FACTS)
        self.gauges: dict[tuple[Metric, Labels], float | None] = {}
        """None: not told any more, so that Ray forgets it."""
        self.in_flight: Counter[Labels] = Counter()
        self._opened = threading.Event()
        self._flushing = threading.Lock()

    def open(self) -> None:
        try:
            self.sink, self.spans = self._open()
        except Exception:  # whoever tells a fact answers somebody, and must not fail because nobody can see it
            logger.exception("there is no telemetry in this process")
        self._opened.set()

    def run(self) -> None:
        self.open()
        told = 0.0
        while True:
            time.sleep(FLUSH_S)
            try:
                self.flush()
                if time.monotonic() - told >= GAUGES_S:
                    told = time.monotonic()
                    self.tell_gauges()
            except Exception:  # whatever it was: what comes next must still be seen
                logger.exception("telemetry could not be passed on")

    def flush(self) -> None:
        self._opened.wait()
        sink = self.sink
        with self._flushing:
            sums: defaultdict[tuple[Metric, Labels], float] = defaultdict(float)
            for _ in range(len(self.facts)):  # what comes meanwhile waits for the next time
                told = self.facts.popleft()
                if isinstance(told, Answer) and self.spans:
                    self.spans.answered(*told)
                for fact in facts(told):
                    if fact.metric.kind == "count":
                        sums[fact.metric, fact.labels] += fact.value
                    elif sink:
                        sink.tell(fact)
            for (metric, labels), total in sums.items():
                if sink and total > 0:
                    sink.tell(Fact(metric, labels, total))

    def tell_gauges(self) -> None:
        if self.sink is None:
            return
        for labels, count in list(self.in_flight.items()):
            self.sink.tell(Fact(IN_FLIGHT, labels, count))
        for (metric, labels), value in list(self.gauges.items()):
            if value is not None:
                self.sink.tell(Fact(metric, labels, value))


def facts(told: Fact | Answer) -> Iterator[Fact]:
    """What an answer comes to; times only of those that the client got whole."""
    if isinstance(told, Fact):
        yield told
        return
    record = told.record
    who = (record.alias or "", record.version, record.arm)
    yield Fact(REQUESTS, (*who, outcome(record)), 1)
    yield Fact(PROMPT_TOKENS, who, record.prompt_tokens or 0)
    yield Fact(COMPLETION_TOKENS, who, record.completion_tokens or 0)
    if outcome(record) == "2xx":
        yield Fact(LATENCY, who, record.latency_s)
        if record.ttft_s is not None:
            yield Fact(TTFT, who, record.ttft_s)
            if record.completion_tokens and record.completion_tokens > 1:
                between_s = (record.latency_s - record.ttft_s) / (record.completion_tokens - 1)
                yield Fact(INTER_TOKEN, who, between_s)


def outcome(record: Record) -> str:
    """Class of the status; a client that hung up is neither a success nor anybody's error."""
    return "disconnected" if record.disconnected else f"{record.status // 100}xx"


class RayMetrics:
    """The sink: Ray's metrics of this process."""

    def __init__(self) -> None:
        from ray.util import metrics

        self._app = _application()
        self._tags: dict[tuple[Metric, Labels], dict[str, str]] = {}
        self._record: dict[Metric, Callable[..., None]] = {}
        for each in METRICS:
            named = each.name, each.says
            keys = (*each.labels, "app")
            match each.kind:
                case "count":
                    self._record[each] = metrics.Counter(*named, keys).inc
                case "gauge":
                    self._record[each] = metrics.Gauge(*named, keys).set
                case "time":
                    self._record[each] = metrics.Histogram(*named, list(each.bounds_s), keys).observe

    def tell(self, fact: Fact) -> None:
        key = fact.metric, fact.labels
        if key not in self._tags:
            self._tags[key] = dict(zip((*fact.metric.labels, "app"), (*fact.labels, self._app), strict=True))
        self._record[fact.metric](float(fact.value), self._tags[key])


def _application() -> str:
    serve = sys.modules.get("ray.serve")
    if serve is None:
        return ""
    try:
        return serve.get_replica_context().app_name
    except serve.exceptions.RayServeException:  # a process with Ray, but no replica: a job
        return ""


_feed: Feed | None = None
_making = threading.Lock()


def _running(anyway: bool = False) -> Feed | None:
    """The process's feed, made when the first fact comes: in a process of Ray's, or `anyway`."""
    global _feed
    if _feed is None and (anyway or _in_ray()):
        with _making:
            if _feed is None:
                _feed = Feed(_open_sinks)
                threading.Thread(target=_feed.run, name="telemetry", daemon=True).start()
    return _feed


def _open_sinks() -> tuple[Sink | None, Spans | None]:
    return RayMetrics() if _in_ray() else None, Spans() if wanted() else None


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
