from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from cluster.admin import MOST_BYTES, Unavailable, admin_api, keyed_api
from cluster.auth import Keys, first_key
from cluster.settings import Strict


class Order(Strict):
    alias: str


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path))
    api = admin_api()

    @api.get("/")
    async def show(request: Request) -> dict[str, str]:
        return {"principal": request.state.principal}

    @api.post("/stage")
    async def stage(order: Order) -> dict[str, str]:
        match order.alias:
            case "taken":
                raise ValueError("taken is taken")
            case "later":
                raise Unavailable("come back later")
            case "broken":
                raise RuntimeError("a secret of the inside")
        return {"alias": order.alias}

    key = first_key(tmp_path)
    headers = {"authorization": f"Bearer {key}"}
    return TestClient(api, root_path="/admin/rollout", headers=headers, raise_server_exceptions=False)


def test_an_admin_is_let_in_by_name_with_and_without_a_slash(client: TestClient) -> None:
    for address in ("/admin/rollout", "/admin/rollout/"):
        assert client.get(address).json() == {"principal": "owner"}


@pytest.mark.parametrize("key", [None, "Bearer", "Bearer sk-trivium-wrong", "Basic abc"])
def test_nobody_else_is(client: TestClient, key: str | None) -> None:
    client.headers.pop("authorization")
    answer = client.get("/admin/rollout", headers={"authorization": key} if key else {})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_key_without_the_scope_is_told_so(client: TestClient, tmp_path: Path) -> None:
    key = Keys(tmp_path).create("app", ("infer", "feedback"))
    answer = client.get("/admin/rollout", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403
    assert "the key of app has no admin scope" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"alias": "taken"}', 409, "taken is taken"),
        (b'{"alias": "later"}', 503, "come back later"),
        (b'{"alias": "broken"}', 500, "the request failed; the cluster's log says why"),
        (b'{"alias": 3}', 400, "alias: Input should be a valid string"),
        (b"{}", 400, "alias: Field required"),
        (b'{"alias": "a", "aliass": "b"}', 400, "aliass: Extra inputs are not permitted"),
        (b"{", 400, "the body: JSON decode error"),
        (b"", 400, "the body: Field required"),
        (b"[" * 200_000, 400, "POST /admin/rollout/stage: There was an error parsing the body"),
        (b"\xff", 400, "POST /admin/rollout/stage: There was an error parsing the body"),
        (b" " * (MOST_BYTES + 1), 413, "the body is larger than"),
    ],
)
def test_every_error_is_in_openais_format(client: TestClient, body: bytes, status: int, message: str) -> None:
    answer = client.post("/admin/rollout/stage", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["message"].startswith(message)
    assert set(error) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text


def test_a_body_of_unknown_length_is_refused(client: TestClient) -> None:
    answer = client.post("/admin/rollout/stage", content=iter([b"{}"]))
    assert answer.status_code == 411


@pytest.mark.parametrize(
    ("method", "address", "status"), [("GET", "nothing", 404), ("GET", "stage", 405), ("GET", "docs", 404)]
)
def test_other_addresses_answer_in_the_same_format(client: TestClient, method: str, address: str, status: int) -> None:
    answer = client.request(method, f"/admin/rollout/{address}")
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_application_may_be_for_keys_with_another_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path))
    api, keys = keyed_api("agents"), Keys(tmp_path)

    @api.get("/")
    async def show(request: Request) -> dict[str, object]:
        return {"who": request.state.who.id, "priority": request.state.who.priority}

    def ask(*scopes: str) -> tuple[int, object]:
        key = keys.create("-".join(scopes), scopes, priority=5)
        client = TestClient(api, root_path="/agents", headers={"authorization": f"Bearer {key}"})
        answer = client.get("/agents")
        return answer.status_code, answer.json().get("who")

    assert ask("agents") == (200, "agents") and ask("admin") == (200, "admin")
    assert ask("infer", "feedback") == (403, None)
