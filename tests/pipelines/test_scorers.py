"""What an answer is worth, by the scorer's name."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pipelines import scorers
from pipelines.artifacts import Row
from pipelines.recipe import JudgeSettings

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("book", "play")]


def row(reference, tools=TOOLS):
    return Row("r", [{"role": "user", "content": "do"}, reference], tools, ["req"], "log", "s", "book")


def call(name, arguments, *more):
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": given}}]
    return {"role": "assistant", "content": "", "tool_calls": calls + [c for m in more for c in m["tool_calls"]]}


def text(content):
    return {"role": "assistant", "content": content}


BOOK = call("book", {"city": "Rome", "seats": 5})


@pytest.mark.parametrize(
    ("reference", "answer", "value", "tool", "exact", "well_formed"),
    [
        (BOOK, BOOK, 1, 1, 1, True),
        (BOOK, call("book", '{"seats": 5.0, "city": " Rome ", "note": null}'), 1, 1, 1, True),
        (BOOK, call("book", {"city": "Paris", "seats": 5}), 2 / 3, 1, 0, True),
        (BOOK, call("book", {"city": "rome", "seats": 5}), 2 / 3, 1, 0, True),
        (BOOK, call("book", {"city": "Rome"}), 2 / 3, 1, 0, True),
        (BOOK, call("book", {"city": "Rome", "seats": 5, "sun": True}), 3 / 4, 1, 0, True),
        (BOOK, call("book", {}), 1 / 3, 1, 0, True),
        (BOOK, call("book", "{broken"), 1 / 3, 1, 0, False),
        (BOOK, call("play", {"city": "Rome", "seats": 5}), 0, 0, 0, True),
        (BOOK, call("fly", {"city": "Rome", "seats": 5}), 0, 0, 0, False),
        (BOOK, text("Rome it is"), 0, 0, 0, True),
        (BOOK, text(""), 0, 0, 0, False),
        (BOOK, call("book", {"city": "Rome", "seats": 5}, call("play", {})), 0, 0, 0, True),
        (call("book", {}, call("play", {})), call("play", {}, call("book", {})), 1, 1, 1, True),
        (call("book", {"go": True}), call("book", {"go": 1}), 1 / 2, 1, 0, True),
        (text("Done."), text(" Done.\n"), 1, 1, 1, True),
        (text("Done."), text("Well"), 1 / 2, 1, 0, True),
        (text("Done."), BOOK, 0, 0, 0, True),
    ],
)
async def test_tool_call_scores(reference, answer, value, tool, exact, well_formed):
    score = await scorers.find("tool_call")(row(reference), answer)
    assert score.value == pytest.approx(value)
    assert score.parts == {"tool_accuracy": tool, "exact_match": exact}
    assert score.well_formed is well_formed


@pytest.mark.parametrize(
    ("answer", "value", "well_formed"),
    [
        ('{"b": [1, 2], "a": "x"}', 1, True),
        ('{"a": "x"}', 0.5, True),
        ('{"a": "x", "b": [2, 1]}', 0.5, True),
        ("[1]", 0, True),
        ("a: x", 0, False),
        ("", 0, False),
    ],
)
async def test_json_scores(answer, value, well_formed):
    score = await scorers.find("json")(row(text('{"a": "x", "b": [1, 2]}')), text(answer))
    assert (score.value, score.well_formed) == (value, well_formed)


@pytest.mark.parametrize(("answer", "value"), [("Good  day\n", 1), ("good day", 0), ("", 0)])
async def test_exact_scores(answer, value):
    score = await scorers.find("exact")(row(text("Good day")), text(answer))
    assert (score.value, score.well_formed) == (value, bool(answer))


async def test_content_parts_are_read_as_text():
    parts = {"role": "assistant", "content": [{"type": "text", "text": "Good "}, {"type": "text", "text": "day"}]}
    assert (await scorers.find("exact")(row(text("Good day")), parts)).value == 1


def shout(row, answer):
    return float(answer["content"].isupper())


async def whisper(row, answer):
    return scorers.Score(0.25, True, {"volume": 0.1})


def wild(row, answer):
    return 3


async def test_own_scorer_is_found_by_its_name():
    assert (await scorers.find(f"{__name__}:shout")(row(text("A")), text("HEY"))).value == 1
    assert (await scorers.find(f"{__name__}:whisper")(row(text("A")), text("hey"))).parts == {"volume": 0.1}


async def test_score_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"wild gave 3\.0; a score lies between 0 and 1"):
        await scorers.find(f"{__name__}:wild")(row(text("A")), text("hey"))


@pytest.mark.parametrize("name", ["nonsense", "no.such.module:f", f"{__name__}:missing"])
def test_unknown_scorer_is_named(name):
    with pytest.raises(ValueError, match=name.split(":")[0]):
        scorers.find(name)


class JudgeServer(BaseHTTPRequestHandler):
    """A chat server that says what `verdict` is, and keeps what it was asked."""

    verdict = ""
    asked: dict = {}

    def do_POST(self):
        JudgeServer.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        JudgeServer.key = self.headers["authorization"]
        message = {"role": "assistant", "content": JudgeServer.verdict}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def judge(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeServer)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUDGE_KEY", "secret")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    yield scorers.find("judge", JudgeSettings(base_url=url, model="m", key_variable="JUDGE_KEY"))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("said", "value"), [('{"score": 0.7}', 0.7), ('```json\n{"score":1}\n```', 1), ("0.5", 0.5)])
async def test_judge_reads_the_score(judge, said, value):
    JudgeServer.verdict = said
    score = await judge(row(text("Good day")), text("Hello"))
    assert (score.value, score.well_formed) == (value, True)
    case = json.loads(JudgeServer.asked["messages"][1]["content"])
    assert (case["reference"]["content"], case["answer"]["content"]) == ("Good day", "Hello")
    assert JudgeServer.key == "Bearer secret"


@pytest.mark.parametrize("said", ["I like it", '{"score": 7}'])
async def test_judge_without_a_score_stops_the_evaluation(judge, said):
    JudgeServer.verdict = said
    with pytest.raises(ValueError, match="the judge answered"):
        await judge(row(text("Good day")), text("Hello"))


def test_judge_without_address_or_key_says_what_is_missing(monkeypatch):
    with pytest.raises(ValueError, match=r"evaluation\.judge\.base_url"):
        scorers.find("judge", JudgeSettings())
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ValueError, match="set NO_KEY"):
        scorers.find("judge", JudgeSettings(base_url="http://localhost", model="m", key_variable="NO_KEY"))
