"""Keys and their limits, as applications meet them: the `openai` client against the public port."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai import DefaultHttpxClient, OpenAI

from cluster import environment
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@contextmanager
def made(cluster: Cluster, name: str, *options: str) -> Iterator[OpenAI]:
    """A client with a key of its own, made by the command that a user has for it, and revoked in the end."""
    key = cluster.trivium("keys", "create", name, *options).stdout.strip()
    http = DefaultHttpxClient(trust_env=False)
    with OpenAI(base_url=cluster.base_url, api_key=key, max_retries=0, timeout=120, http_client=http) as api:
        yield api
    cluster.trivium("keys", "revoke", name)


def ask(api: OpenAI, **more: Any) -> Any:
    return api.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": "hello"}], **{"max_tokens": 4, **more}
    )


def test_each_keys_requests_a_minute_hold(cluster: Cluster) -> None:
    with (
        made(cluster, "slow", "--requests-per-minute", "3") as slow,
        made(cluster, "slower", "--requests-per-minute", "2") as slower,
    ):
        for api, most in ((slow, 3), (slower, 2)):
            for _ in range(most):
                ask(api)
            with pytest.raises(openai.RateLimitError, match=f"may have {most} requests a minute") as refused:
                ask(api)
            assert refused.value.code == "rate_limit_exceeded"
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60 // most
            assert refused.value.response.headers["x-ratelimit-limit-requests"] == str(most)
            assert api.models.list().data, "what costs the engine nothing is not counted"


def test_who_waits_as_long_as_told_gets_in(cluster: Cluster) -> None:
    with made(cluster, "patient", "--requests-per-minute", "30") as api:
        refused = None
        while refused is None:
            try:
                ask(api, max_tokens=1)
            except openai.RateLimitError as error:
                refused = error
        time.sleep(int(refused.response.headers["retry-after"]))
        ask(api, max_tokens=1)


def test_tokens_are_counted_as_the_answer_says_streamed_or_not(cluster: Cluster) -> None:
    with made(cluster, "talker", "--tokens-per-minute", "60") as api:
        spent = ask(api, max_tokens=16).usage.total_tokens
        left = [chunk.usage for chunk in ask(api, stream=True, stream_options={"include_usage": True})][-1].total_tokens
        raw = api.chat.completions.with_raw_response.create(
            model="assistant", messages=[{"role": "user", "content": "hello"}], max_tokens=1
        )
        known = int(raw.headers["x-ratelimit-remaining-tokens"])
        assert 60 - spent - left <= known <= 60 - spent - left + 20, "a token a second comes back"
        with pytest.raises(openai.RateLimitError, match="tokens a minute"):
            for _ in range(10):
                ask(api, max_tokens=64)


def test_concurrent_requests_are_held_to_their_number_and_come_back(cluster: Cluster) -> None:
    with made(cluster, "narrow", "--concurrent", "1") as api:
        for n in range(10):
            ask(api, stream=bool(n % 2)) if n % 2 == 0 else list(ask(api, stream=True))
        with ThreadPoolExecutor(6) as together:
            outcomes = list(together.map(lambda _: outcome(api), range(6)))
        assert outcomes.count("answered") >= 1 and set(outcomes) <= {"answered", "RateLimitError"}
        with ask(api, stream=True, max_tokens=400) as stream:
            next(iter(stream))
        ask(api)  # the stream was left, and its slot came back


def outcome(api: OpenAI) -> str:
    try:
        ask(api, max_tokens=200)
        return "answered"
    except openai.OpenAIError as error:
        return type(error).__name__


def test_a_revoked_key_is_shut_out_within_a_second(cluster: Cluster) -> None:
    with made(cluster, "leaver") as api:
        ask(api)
        identity = next(
            e["id"] for e in json.loads(cluster.trivium("keys", "list", "--json").stdout) if e["name"] == "leaver"
        )
        cluster.trivium("keys", "revoke", identity)
        revoked = time.monotonic()
        eventually(lambda: outcome(api), 5, "the key is refused", lambda seen: seen == "AuthenticationError")
        assert time.monotonic() - revoked < 1
        cluster.trivium("keys", "create", "leaver")  # for the end of the block


def test_scopes_hold_on_every_door(cluster: Cluster) -> None:
    with made(cluster, "rater", "--scope", "feedback") as rater, made(cluster, "asker", "--scope", "infer") as asker:
        with pytest.raises(openai.PermissionDeniedError, match="lacks the scope `infer`"):
            ask(rater)
        with pytest.raises(openai.PermissionDeniedError, match="lacks the scope `feedback`"):
            asker.post("/feedback", body={"request_id": "req-0", "score": 1}, cast_to=object)
        for api in (rater, asker):
            answer = api.with_options(base_url=cluster.base_url.removesuffix("/v1"))
            with pytest.raises(openai.PermissionDeniedError, match="admin"):
                answer.get("/admin/rollout", cast_to=object)


def test_no_key_is_in_any_log_of_the_cluster(cluster: Cluster) -> None:
    secret = cluster.trivium("keys", "create", "quiet").stdout.strip()
    with OpenAI(
        base_url=cluster.base_url, api_key=secret, max_retries=0, http_client=DefaultHttpxClient(trust_env=False)
    ) as api:
        ask(api)
        with pytest.raises(openai.BadRequestError):
            ask(api, n=16384)
    found = [
        path
        for root in (cluster.state, environment.folder(cluster.settings))
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix in (".log", ".out", ".err", ".jsonl", ".json", "")
        and secret.encode() in path.read_bytes()
    ]
    assert found == []
    cluster.trivium("keys", "revoke", "quiet")
