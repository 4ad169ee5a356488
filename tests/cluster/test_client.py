from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.auth import first_key
from cluster.client import Client, find_key
from cluster.settings import Settings

DECISION = {
    "sequence": 4, "time": 1.0, "action": "promote", "alias": "assistant", "version": "assistant@2", "base": "seed",
    "actor": "owner", "reason": "better",
}  # fmt: skip


class Door(BaseHTTPRequestHandler):
    """Answers what the test wants and keeps what it was asked: the other side of the wire, over real HTTP."""

    answer: tuple[int, bytes] = (200, b"{}")
    asked: list[tuple[str, str, str, Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.command, self.path, self.headers["authorization"], json.loads(body or b"null")))
        status, content = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def door() -> Iterator[HTTPServer]:
    Door.asked, Door.answer = [], (200, b"{}")
    server = HTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, door: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Settings(state=tmp_path, http_port=door.server_port)


def test_a_promotion_is_asked_for_with_the_owners_key(settings: Settings) -> None:
    key = first_key(settings.state)
    Door.answer = (200, json.dumps(DECISION).encode())
    with Client(settings) as client:
        decision = client.promote("assistant", "assistant@2", "better")
    assert decision.sequence == 4
    order = {"alias": "assistant", "version": "assistant@2", "reason": "better"}
    assert Door.asked == [("POST", "/admin/rollout/promote", f"Bearer {key}", order)]


def test_the_clusters_own_words_reach_the_user(settings: Settings) -> None:
    first_key(settings.state)
    Door.answer = (
        409,
        b'{"error": {"message": "assistant@2 is not staged", "type": "t", "param": null, "code": null}}',
    )
    with Client(settings) as client, pytest.raises(ValueError, match=r"^assistant@2 is not staged$"):
        client.reject("assistant", "assistant@2", "worse")


@pytest.mark.parametrize("body", [b"Path '/admin/rollout' not found. Ping http://.../-/routes", b"", b"[1]", b'"x"'])
def test_serves_own_plain_text_becomes_a_sentence(settings: Settings, body: bytes) -> None:
    first_key(settings.state)
    Door.answer = (404, body)
    with Client(settings) as client, pytest.raises(ValueError, match=r"answered 404 .*trivium up") as caught:
        client.rollout()
    assert "\n" not in str(caught.value)


def test_a_key_that_does_not_fit_is_explained(settings: Settings) -> None:
    first_key(settings.state)
    Door.answer = (401, b'{"error": {"message": "no valid API key"}}')
    with Client(settings) as client, pytest.raises(ValueError, match=r'eval "\$\(trivium env\)"'):
        client.rollout()


def test_no_cluster_is_said_with_the_fix(tmp_path: Path) -> None:
    first_key(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Client(Settings(state=tmp_path, http_port=port)) as client,
        pytest.raises(ValueError, match=f"no cluster answers at http://127.0.0.1:{port}; start it with `trivium up`"),
    ):
        client.rollout()


def test_no_key_is_said_with_the_fix(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"there is no API key at .*trivium up"):
        find_key(settings)


def test_somebodys_openai_key_is_never_sent(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = first_key(settings.state)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-secret")
    assert find_key(settings) == ours
    monkeypatch.setenv("OPENAI_API_KEY", "sk-trivium-given")
    assert find_key(settings) == "sk-trivium-given"
