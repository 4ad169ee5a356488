"""HAProxy with the configuration that Serve makes of our environment, before servers that say who they are."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster import ports
from cluster.environment import environment, folder
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = pytest.mark.ray  # its Serve writes the configuration, which takes as long as the fast tests may

WRITE = """
import json, sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig, get_haproxy_binary
from ray.serve.config import HTTPOptions

port, wanted = json.loads(sys.argv[1])
for file, servers in wanted.items():
    config = HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=port), is_head=True)
    made = [ServerConfig(f"replica-{number}", "127.0.0.1", number) for number in servers or []]
    apps = {} if servers is None else {"app": BackendConfig("app", "/", app_name="app", servers=made)}
    HAProxyApi(config, apps, file)._generate_config_file_internal()
print(get_haproxy_binary())
"""
"""What Serve's HAProxyManager does. Ray reads the environment when it is imported: in a process of its own."""

UNTOLD = -1
"""Serve has not told HAProxy yet which applications there are."""

SESSIONS = [f"session-{number}" for number in range(200)]


class Server(BaseHTTPRequestHandler):
    """Says its port, or dies of the request: always, or if it is the first that gets it."""

    protocol_version = "HTTP/1.1"
    dead: ClassVar[set[str]] = set()
    wbufsize = -1  # head and body in one packet: else the second waits 40 ms for the first one's acknowledgement

    def do_GET(self) -> None:
        if "/die" in self.path and self.path not in self.dead:
            self.close_connection = True
            if self.path != "/die":
                self.dead.add(self.path)
            return
        body = str(self.server.server_port).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


class Balancer:
    """HAProxy, before none or some of four servers."""

    def __init__(self, state: Path) -> None:
        self._settings = Cluster.on_free_ports(state).settings
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(4)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self._ports = [server.server_port for server in self._servers]
        self._process: subprocess.Popen[bytes] | None = None
        self._variables = {**os.environ, **environment(self._settings)}
        self.files = {count: folder(self._settings) / f"{count}.cfg" for count in (UNTOLD, 0, 3, 4)}
        wanted = {str(file): None if count == UNTOLD else self._ports[:count] for count, file in self.files.items()}
        command = [sys.executable, "-c", WRITE, json.dumps([self._settings.http_port, wanted])]
        said = subprocess.run(command, env=self._variables, check=True, capture_output=True, text=True).stdout
        self._binary = said.split()[-1]

    def start(self, servers: int) -> list[str]:
        """Start it, or start it again, before so many of them. Returns what they will say."""
        self._end_process()
        command = [self._binary, "-db", "-f", self.files[servers]]
        self._process = subprocess.Popen(command, env=self._variables, stderr=subprocess.DEVNULL)
        eventually(lambda: ports.busy(self._settings.http_port), 30, "HAProxy listens")
        return [str(port) for port in self._ports[: max(0, servers)]]

    def ask(self, session: str | None = None, path: str = "/") -> tuple[int, dict[str, str], str]:
        """Status, headers and body of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self._settings.http_port, timeout=30)
        connection.request("GET", path, headers={} if session is None else {"X-Session-Id": session})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()

    def post(self, path: str) -> tuple[int, str]:
        """Status and body of an answer to a request whose body comes after its head has had time to do its work."""
        connection = http.client.HTTPConnection("127.0.0.1", self._settings.http_port, timeout=30)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", "4")
        connection.endheaders()
        select.select([connection.sock], [], [], 0.5)
        connection.send(b"body")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def homes(self) -> dict[str, str]:
        """Which server each session comes to."""
        return {session: self.ask(session)[2] for session in SESSIONS}

    def close(self) -> None:
        self._end_process()
        for server in self._servers:
            server.shutdown()
        shutil.rmtree(folder(self._settings))

    def _end_process(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    own = Balancer(tmp_path_factory.mktemp("balancer") / "state")
    yield own
    own.close()


def test_a_session_stays_with_its_replica_and_requests_without_one_go_to_all(balancer: Balancer) -> None:
    servers = balancer.start(3)
    homes = balancer.homes()
    assert balancer.homes() == homes
    spread = Counter(homes.values())
    assert set(spread) == set(servers) and min(spread.values()) > len(SESSIONS) / 6
    alone = Counter(balancer.ask()[2] for _ in range(96))
    assert set(alone) == set(servers) and min(alone.values()) > 96 / 4


def test_a_replica_that_comes_or_goes_moves_its_share_of_the_sessions_only(balancer: Balancer) -> None:
    balancer.start(3)
    three = balancer.homes()
    *_, fourth = balancer.start(4)
    four = balancer.homes()
    assert {four[session] for session in SESSIONS if four[session] != three[session]} == {fourth}
    assert list(four.values()).count(fourth) < len(SESSIONS) / 2


def test_what_haproxy_says_by_itself_is_in_openais_words(balancer: Balancer) -> None:
    answers = []
    for servers, path in ((UNTOLD, "/"), (0, "/"), (3, "/die")):
        balancer.start(servers)
        answers.append(balancer.ask(path=path))
    for (status, headers, body), code in zip(answers, ["unavailable", "unavailable", "replica_lost"], strict=True):
        assert (status, headers["retry-after"]) == (503 if code == "unavailable" else 502, "1")
        said = json.loads(body)["error"]
        assert set(said) == {"message", "type", "param", "code"}
        assert (headers["content-type"], said["type"], said["code"]) == ("application/json", "server_error", code)


def test_a_request_whose_replica_dies_before_a_word_of_answer_goes_to_another(balancer: Balancer) -> None:
    servers = balancer.start(3)
    home = balancer.ask("somebody")[2]
    status, _, body = balancer.ask("somebody", path="/die-once")
    assert (status, body in servers, body != home) == (200, True, True)
    status, body = balancer.post("/v1/die-before-the-body")
    assert (status, body in servers) == (200, True)


def test_what_may_have_had_an_effect_is_not_done_twice(balancer: Balancer) -> None:
    balancer.start(3)
    status, body = balancer.post("/agents/clerk/die-of-it")
    assert (status, json.loads(body)["error"]["code"]) == (502, "replica_lost")


def test_a_stream_of_ten_minutes_meets_no_timeout(balancer: Balancer) -> None:
    text = balancer.files[3].read_text()
    limits = re.findall(
        r"^ *(timeout client|timeout server|timeout tunnel|hard-stop-after) +(\d+)s", text, re.MULTILINE
    )
    assert {name for name, _ in limits} == {"timeout client", "hard-stop-after"}, "without a server's limit, none holds"
    assert min(int(seconds) for _, seconds in limits) >= 600
