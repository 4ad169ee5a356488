"""A small HTTP server that stands for the deployment: the rollout's admin paths and a chat that a test scripts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from cluster import decisions, durable
from cluster.decisions import fold, read
from cluster.records import Decision
from cluster.settings import Settings

Reply = tuple[int, Any]


class Deployment:
    """Writes the same decision log as the real one; `chat` maps a request's body to (status, JSON or plain text)."""

    def __init__(self, state: Path, base: str) -> None:
        self.state, self.base = state, base
        self.chat: Callable[[dict[str, Any]], Reply] = lambda body: (200, message("ok"))
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busiest = self._busy = 0
        self._lock = Lock()
        self.settings = Settings(state=state)
        self.publishes = "canary"
        """What becomes of an accepted candidate."""

    def decide(self, action: str, body: dict[str, Any]) -> Decision:
        made = read(self.state)
        decision = Decision(
            sequence=len(made), time=time.time(), action=action, base=self.base, actor="owner", **{"reason": "", **body}
        )
        path = decisions.path(self.state, decision.sequence)
        durable.make_folder(path.parent)
        durable.create(path, decision.model_dump_json().encode())
        return decision

    def handle(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        if path == "/v1/chat/completions":
            with self._lock:
                self.requests.append(body)
                self.headers.append(headers)
                self._busy += 1
                self.busiest = max(self.busiest, self._busy)
            try:
                return self.chat(body)
            finally:
                with self._lock:
                    self._busy -= 1
        if method == "GET":
            return 200, {"aliases": {name: vars(alias) for name, alias in fold(read(self.state)).aliases.items()}}
        action = path.rsplit("/", 1)[1]
        if action == "publish":
            action, body = self.publishes, {**body, "share": 0.1}
        return 200, json.loads(self.decide(action, body).model_dump_json())

    @property
    def actions(self) -> list[tuple[str, str]]:
        return [(decision.action, decision.version) for decision in read(self.state)]


@contextmanager
def serve(state: Path, base: str = "seed") -> Iterator[Deployment]:
    """A deployment whose alias `assistant` stands on `assistant@0`, which is `base`."""
    deployment = Deployment(state, base)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, reply = deployment.handle(self.command, self.path, body, headers)
            content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    (state / "secrets").mkdir(parents=True)
    (state / "secrets" / "api_key").write_text("sk-trivium-test")
    # MLflow is away: nothing may depend on it, and making its tables takes longer than these tests.
    deployment.settings = Settings(state=state, http_port=server.server_port, mlflow_uri="http://127.0.0.1:1")
    deployment.decide("create", {"alias": "assistant", "version": "assistant@0"})
    try:
        yield deployment
    finally:
        server.shutdown()
        server.server_close()


def message(content: str, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    return {
        "choices": [
            {"message": {"role": "assistant", "content": content, **fields}, "finish_reason": finish_reason, "index": 0}
        ]
    }


def error(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}
