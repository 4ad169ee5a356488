"""The application against a server that answers as the contract says; the real one is met in `tests/e2e`."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from demo.client import Application, Tally
from demo.feedback import Dilution, message
from demo.traffic import Wish, schemas

WISHES = [Wish(f"play {year}", "Play", {"year": str(year)}) for year in range(1950, 1982)]


class Server(ThreadingHTTPServer):
    """Knows the answer for odd years, names the wrong year otherwise, and fails on 1960."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []
        self.sessions: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/feedback":
            self.server.feedback.append(body)
            return self.reply(200, {"ok": True})
        year = int(body["messages"][-1]["content"].removeprefix("play "))
        self.server.asked.append(body)
        self.server.sessions.append(self.headers["x-session-id"])
        if year == 1960:
            return self.reply(503, {"error": {"message": "no room", "type": "server_error"}})
        call = message(Wish("", "Play", {"year": str(year if year % 2 else year + 1)}))
        choice = {"index": 0, "message": call, "finish_reason": "tool_calls"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "assistant", "choices": [choice]}
        self.reply(200, answer, {"x-request-id": f"req-{year}", "x-trivium-version": "assistant@3"})

    def reply(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def application(server: Server) -> Application:
    return Application(f"http://127.0.0.1:{server.server_port}/v1", "sk-test", schemas(WISHES))


async def test_live_requests_offer_the_tools_and_send_what_users_think(server: Server) -> None:
    app, tally = application(server), Tally()
    await app.live(WISHES, Dilution(), "run", tally, lambda _: None)
    await app.close()
    assert tally.requests == len(WISHES) and len(tally.failures) == 1 and "no room" in tally.failures[0]
    assert all(body["tools"] == schemas(WISHES) and body["store"] for body in server.asked)
    assert len(set(server.sessions)) == len(WISHES) // 4
    told = {body["request_id"]: body for body in server.feedback}
    assert len(told) == len(WISHES) - 1
    assert told["req-1951"]["score"] == 1 and "correction" not in told["req-1951"]
    assert told["req-1952"]["score"] == 0 and told["req-1952"]["correction"] == message(WISHES[2])
    assert tally.feedback == {"given": 31, "scores_only": 16, "corrections": 15, "wrong": 0}


async def test_measuring_keeps_the_order_and_leaves_nothing_to_learn_from(server: Server) -> None:
    app = application(server)
    answers = await app.measure(WISHES, lambda _: None)
    await app.close()
    assert [answer.wish for answer in answers] == WISHES
    assert [answer.exact for answer in answers] == [bool(int(wish.arguments["year"]) % 2) for wish in WISHES]
    assert {answer.version for answer in answers if not answer.error} == {"assistant@3"}
    assert not any(body["store"] for body in server.asked) and not server.feedback


async def test_request_that_fails_is_asked_once_and_counted_not_raised(server: Server) -> None:
    app = application(server)
    answer = await app.ask(WISHES[10], "s", store=True)
    await app.close()
    assert answer.error and not answer.exact and len(server.asked) == 1
