from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.scrub import Scrubber, luhn

KINDS = ("email", "phone", "card", "key")
SNIPS = Path(__file__).parents[3] / "shared" / "data" / "snips"


def scrub(text: str) -> str:
    return Scrubber(KINDS).text(text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail bob.smith+x@mail.example.co.uk now", "mail <EMAIL> now"),
        ("(bob@example.com)", "(<EMAIL>)"),
        ("call (415) 555-0100", "call <PHONE>"),
        ("1-800-555-0100.", "<PHONE>."),
        ("ring +49 30 1234567 or +14155550100", "ring <PHONE> or <PHONE_2>"),
        ("030 1234567, 06 12 34 56 78", "<PHONE>, <PHONE_2>"),
        ("call 5550100234", "call <PHONE>"),
        ("card 4111 1111 1111 1111, exp 12/27", "card <CARD>, exp 12/27"),
        ("378282246310005", "<CARD>"),
        ("my key is sk-proj-abc123DEF456ghi789JKL012 ok", "my key is <KEY> ok"),
        ("AKIAIOSFODNN7EXAMPLE", "<KEY>"),
        ('{"api_key": "0123abcd4567"}', '{"api_key": "<KEY>"}'),
        ("password: hunter42!", "password: <KEY>"),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer <KEY>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nbye", "<KEY>\nbye"),
    ],
)
def test_personal_data_and_secrets_become_placeholders(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "on 2017-06-12 at 10:30, then 05-06-2017 10 people",
        "192.168.100.200 and 3.14159265358 and $1,234,567.89",
        "in 1999 2000 2001 2002 and 1984-2024",
        "order 4111111111111112 has no valid card number in it",
        "isbn 978-3-16-148410-0",
        "123e4567-e89b-12d3-a456-426614174000",
        "@bob, bob@home and 3 @ 5",
        "scikit-learn sk-learn task-list-of-things-to-do-and-more-of-them",
        "secret: chocolate, the password: is missing",
        "2+2=4 +100 200 and +20 30 40",
        "from 09 00 to 17 00",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert scrub(text) == text


def test_request_and_target_share_their_placeholders() -> None:
    scrubber = Scrubber(KINDS)
    user = scrubber.message({"role": "user", "content": "tell a@x.org and b@x.org that I call from 415-555-0100"})
    arguments = {
        "to": ["b@x.org", "A@X.ORG"],
        "from": "415 555 0100 or (415) 555-0100",
        "card": 4111111111111111,
        "n": 5,
    }
    function = {"name": "send_mail", "arguments": json.dumps(arguments)}
    answer = scrubber.message({"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]})

    assert user["content"] == "tell <EMAIL> and <EMAIL_2> that I call from <PHONE>"
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {
        "to": ["<EMAIL_2>", "<EMAIL>"],
        "from": "415 555 0100 or <PHONE>",
        "card": "<CARD>",
        "n": 5,
    }
    assert scrubber.counts == {"email": 2, "phone": 1, "card": 1}


def test_only_what_the_recipe_names_is_replaced() -> None:
    assert Scrubber(["email"]).text("a@x.org 415-555-0100") == "<EMAIL> 415-555-0100"


def test_text_parts_are_scrubbed_and_other_parts_are_not() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    message = {"role": "user", "content": [{"type": "text", "text": "a@x.org"}, image]}
    assert Scrubber(KINDS).message(message)["content"] == [{"type": "text", "text": "<EMAIL>"}, image]


def test_luhn_takes_card_numbers_and_no_neighbours() -> None:
    assert luhn("4111 1111 1111 1111") and luhn("5500-0055-5555-5559")
    assert not luhn("4111 1111 1111 1112") and not luhn("0")


@pytest.mark.skipif(not SNIPS.exists(), reason="the shared data is not here")
def test_fourteen_thousand_real_requests_are_left_alone() -> None:
    texts = [json.loads(line)["text"] for path in SNIPS.glob("*.jsonl") for line in path.open()]
    assert [text for text in texts if scrub(text) != text] == []
