"""Limits of keys over two replicas, whose book is the real actor; what they survive."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

from cluster.auth import Keys, Limits
from services.gateway.ledger import LAPSE_S
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = pytest.mark.ray


def key(cluster: Cluster, name: str, **given: int) -> str:
    every = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent": None}
    return Keys(cluster.state).create(name, ("infer",), Limits(**{**every, **given}))


def ask(cluster: Cluster, own: str, tokens: int = 1) -> httpx.Response:
    """Over a connection of its own, so that either replica may answer."""
    body = {"model": "paced", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": True}
    return httpx.post(
        f"http://127.0.0.1:{cluster.settings.http_port}/limited/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {own}"},
        timeout=60,
        trust_env=False,
    )


@contextmanager
def asking(cluster: Cluster, own: str, tokens: int) -> Iterator[httpx.Response]:
    """A stream that goes on while the block runs."""
    address = f"http://127.0.0.1:{cluster.settings.http_port}/limited/v1/chat/completions"
    body = {"model": "paced", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": True}
    headers = {"authorization": f"Bearer {own}"}
    with httpx.stream("POST", address, json=body, headers=headers, timeout=60, trust_env=False) as response:
        yield response


def replicas(answers: list[httpx.Response]) -> set[str]:
    return {answer.headers["x-replica"] for answer in answers}


def test_requests_a_minute_hold_over_both_replicas(control: Cluster) -> None:
    own = key(control, "counted", requests_per_minute=30)
    answers = [ask(control, own) for _ in range(60)]
    let_in = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    took = 60 * 0.5  # one comes back every two seconds; a request takes far less than half of one
    assert 30 <= len(let_in) <= 30 + took / 2
    assert [answer.status_code for answer in answers[:30]] == [200] * 30
    assert len(replicas(let_in)) == 2


def test_a_sequential_caller_with_one_slot_is_never_refused_whichever_replica_answers(control: Cluster) -> None:
    own = key(control, "sequential", concurrent=1)
    answers = [ask(control, own, tokens=1 + n % 3) for n in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(replicas(answers)) == 2


def test_as_many_as_allowed_run_at_once_over_both_replicas(control: Cluster) -> None:
    own = key(control, "parallel", concurrent=2)
    with ThreadPoolExecutor(8) as together:
        answers = list(together.map(lambda _: ask(control, own, tokens=150), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 6
    assert ask(control, own).status_code == 200


def test_tokens_spent_at_one_replica_are_owed_at_the_other(control: Cluster) -> None:
    own = key(control, "spender", tokens_per_minute=60)
    assert ask(control, own, tokens=300).status_code == 200
    answers = [ask(control, own) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {429}
    assert len(replicas(answers)) == 2
    assert 180 < int(answers[0].headers["retry-after"]) <= 250


def test_a_slot_comes_back_when_its_replica_is_killed(control: Cluster) -> None:
    own = key(control, "bereaved", concurrent=1)
    with asking(control, own, tokens=3000) as stream:
        assert stream.status_code == 200
        assert ask(control, own).status_code == 429
        psutil.Process(int(stream.headers["x-process"])).kill()
        eventually(lambda: ask(control, own).status_code, LAPSE_S + 30, "the slot is free", lambda seen: seen == 200)


def test_while_the_actor_is_away_requests_go_on_and_afterwards_limits_hold_again(control: Cluster) -> None:
    own = key(control, "outage", requests_per_minute=600, concurrent=1)
    assert ask(control, own).status_code == 200
    (book,) = control.processes("ray::Limiter")
    book.kill()
    answers = [ask(control, own) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}

    def holds() -> bool:
        with asking(control, own, tokens=200) as stream:
            seen = [ask(control, own) for _ in range(6)]
        return (
            stream.status_code == 200 and {answer.status_code for answer in seen} == {429} and len(replicas(seen)) == 2
        )

    eventually(holds, 60, "both replicas know of one slot again")
