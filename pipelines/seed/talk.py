"""Turns that are no call: greetings, tools that are missing, questions back, answers to tool results."""

from __future__ import annotations

import json
import random
from typing import Any

from pipelines.seed.grammar import expand
from pipelines.seed.realise import Request
from pipelines.seed.values import MAKERS, title

Message = dict[str, Any]

CHATS = (
    ("(hello|hi|hey|good morning|good evening|hey there)", "Hello! What can I do for you?"),
    ("(thanks|thank you|thanks a lot|great, thanks|cheers)", "You are welcome."),
    ("(who are you|what are you|what is your name)", "I am a small assistant that calls tools for you."),
    (
        "(what can you do|help|how can you help me|what do you do)",
        "I can call the tools that I was given. Tell me what you need.",
    ),
    ("(bye|goodbye|see you|good night|that is all)", "Goodbye!"),
    ("(how are you|how are you doing|are you well)", "I am fine, thank you. What can I do for you?"),
    ("(ok|okay|good|nice|perfect|never mind|forget it)", "All right. Tell me if you need anything else."),
)
BEYOND = (
    "(tell me a joke|sing me a song|tell me a story)",
    "(what is the meaning of life|why is the sky blue|who wins the election)",
    "(solve my homework|do my taxes|write my speech)",
    "(how old is the universe|is there life on mars|what should i name my cat)",
)


def chat(rng: random.Random) -> list[Message]:
    said, reply = rng.choice(CHATS)
    text = "".join(str(p) for p in expand(said, rng)) + rng.choice(("", "", "!", ".", "?"))
    return [
        {"role": "user", "content": text.capitalize() if rng.random() < 0.4 else text},
        {"role": "assistant", "content": reply},
    ]


def decline(rng: random.Random) -> list[Message]:
    text = "".join(str(p) for p in expand(rng.choice(BEYOND), rng))
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "I have no tool for that."}]


def answer(request: Request, rng: random.Random) -> list[Message]:
    """A tool's result, and the sentence that tells it: what it says is copied from call and result."""
    kind = rng.choice(("ok", "value", "error"))
    subject = rng.choice(list(request.arguments.values())) if request.arguments else "it"
    value = rng.choice((title, MAKERS["number"], MAKERS["when"], MAKERS["person"], MAKERS["code"]))(rng)
    if kind == "ok":
        result, word = {"status": "done"}, "done"
    elif kind == "error":
        reason = rng.choice(("not found", "not available", "permission denied", "timed out", "unknown name"))
        result, word = {"error": reason}, reason
    else:
        result, word = {"result": value}, value
    return [
        {"role": "tool", "tool_call_id": "call_0", "content": json.dumps(result, ensure_ascii=False)},
        {"role": "assistant", "content": told(subject, word, kind)},
    ]


def told(subject: str, word: str, kind: str) -> str:
    """The sentence that ends a conversation after a result: `ok`, `value` or `error`."""
    if kind == "value":
        return f"The result for {subject} is {word}."
    return f"Done: {subject}." if kind == "ok" else f"That did not work: {word}."


def ask_back(request: Request, rng: random.Random) -> list[Message]:
    """The user names the tool only; the assistant asks; the user then gives it all."""
    opening = rng.choice(("i need {0}", "{0}", "can you do {0}", "{0} please")).format(request.tool.replace("_", " "))
    return [
        {"role": "user", "content": opening},
        {"role": "assistant", "content": f"What should I use for {', '.join(request.arguments)}?"},
        {"role": "user", "content": request.text},
    ]
