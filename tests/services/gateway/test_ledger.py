"""What keys have left, on a clock that the test turns."""

from __future__ import annotations

import pytest

from cluster.auth import Limits
from services.gateway.ledger import LAPSE_S, Granted, Ledger, Refused


def limits(requests: int | None = None, tokens: int | None = None, concurrent: int | None = None) -> Limits:
    return Limits(requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent)


def entered(ledger: Ledger, given: Limits, now: float, times: int, replica: str = "a") -> int:
    """How many of `times` questions at `now` are granted, counting what each grants."""
    answers = [ledger.enter("k", given, f"{replica}{now}-{n}", replica, now) for n in range(times)]
    return sum(answer.requests for answer in answers if isinstance(answer, Granted))


def test_a_minutes_worth_may_be_spent_at_once_and_then_it_goes_on_at_its_rate() -> None:
    ledger, given = Ledger(), limits(requests=6)
    assert entered(ledger, given, 0, 20) == 6
    assert entered(ledger, given, 9.9, 5) == 0
    assert entered(ledger, given, 10, 5) == 1
    assert entered(ledger, given, 1000, 20) == 6, "a pause earns no more than a minute's worth"


@pytest.mark.parametrize("given", [limits(requests=7), limits(tokens=90), limits(requests=7, tokens=90)])
def test_who_waits_as_long_as_told_gets_in_and_not_sooner(given: Limits) -> None:
    ledger, now = Ledger(), 100.0
    for _ in range(50):
        answer = ledger.enter("k", given, "t", "a", now)
        if isinstance(answer, Granted):
            ledger.settle("k", given, now, tokens=25)
            continue
        assert isinstance(ledger.enter("k", given, "t", "a", now + answer.retry_after_s * 0.98), Refused)
        now += answer.retry_after_s
        assert isinstance(ledger.enter("k", given, "t", "a", now), Granted)
        ledger.settle("k", given, now, tokens=25)


def test_tokens_are_charged_afterwards_and_what_is_owed_is_waited_for() -> None:
    ledger, given = Ledger(), limits(tokens=600)
    assert isinstance(ledger.enter("k", given, "t", "a", 0), Granted)
    ledger.settle("k", given, 0, tokens=1600)
    answer = ledger.enter("k", given, "t", "a", 0)
    assert isinstance(answer, Refused) and answer.what == "tokens" and 100 < answer.retry_after_s < 101
    assert answer.left.tokens == -1000
    assert isinstance(ledger.enter("k", given, "t", "a", 101), Granted)


def test_a_fast_key_leases_a_seconds_worth_and_no_more_than_there_is() -> None:
    ledger, given = Ledger(), limits(requests=6000)
    first = ledger.enter("k", given, "t", "a", 0)
    assert isinstance(first, Granted) and first.requests == 100
    assert entered(ledger, given, 0, 1000) == 5900
    ledger.settle("k", given, 0, unused=40)
    assert entered(ledger, given, 0, 1) == 40


def test_slots_are_taken_given_back_and_counted_over_replicas() -> None:
    ledger, given = Ledger(), limits(concurrent=2)
    assert isinstance(ledger.enter("k", given, "1", "a", 0), Granted)
    assert isinstance(ledger.enter("k", given, "2", "b", 0), Granted)
    refused = ledger.enter("k", given, "3", "a", 0)
    assert isinstance(refused, Refused) and refused.what == "concurrent"
    assert isinstance(ledger.enter("other", given, "4", "a", 0), Granted), "each key has its own"
    ledger.settle("k", given, 0, ticket="2")
    ledger.settle("k", given, 0, ticket="2")
    assert isinstance(ledger.enter("k", given, "3", "a", 0), Granted)
    assert isinstance(ledger.enter("k", given, "5", "a", 0), Refused)


def test_a_dead_replicas_slots_come_back_and_a_living_ones_stay() -> None:
    ledger, given = Ledger(), limits(concurrent=2)
    ledger.enter("k", given, "1", "dies", 0)
    ledger.enter("k", given, "2", "lives", 0)
    for now in range(1, 8):
        ledger.renew("lives", {"2": "k"}, set(), now)
    assert isinstance(ledger.enter("k", given, "3", "lives", LAPSE_S + 1), Granted)
    assert isinstance(ledger.enter("k", given, "4", "lives", LAPSE_S + 1), Refused)


def test_a_replicas_word_corrects_what_got_lost_on_either_side() -> None:
    ledger, given = Ledger(), limits(concurrent=1)
    ledger.enter("k", given, "ended", "a", 0)
    ledger.renew("a", {}, {"ended"}, 1)
    assert isinstance(ledger.enter("k", given, "2", "a", 1), Refused), "its answer may still be on the way"
    ledger.renew("a", {}, set(), 2)
    assert isinstance(ledger.enter("k", given, "2", "a", 2), Granted)
    anew = Ledger()
    anew.renew("a", {"2": "k"}, set(), 3)
    assert isinstance(anew.enter("k", given, "3", "b", 3), Refused), "a new ledger learns what was held before it"


def test_a_refusal_takes_nothing() -> None:
    ledger, given = Ledger(), limits(requests=6, concurrent=1)
    ledger.enter("k", given, "1", "a", 0)
    for _ in range(100):
        assert isinstance(ledger.enter("k", given, "2", "a", 0), Refused)
    ledger.settle("k", given, 0, ticket="1")
    answer = ledger.enter("k", given, "2", "a", 0)
    assert isinstance(answer, Granted) and answer.left.requests == 4


def test_nothing_is_lost_with_a_ledger_that_says_so() -> None:
    ledger, given = Ledger(), limits(tokens=60, concurrent=1)
    assert ledger.settled(0)
    ledger.enter("k", given, "1", "a", 0)
    assert not ledger.settled(0)
    ledger.settle("k", given, 0, ticket="1", tokens=100)
    assert not ledger.settled(0)
    ledger.enter("k", given, "2", "a", 60)
    ledger.settle("k", given, 60, ticket="2")
    assert ledger.settled(60)
