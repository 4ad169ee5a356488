"""What A2A 1.0 says an agent MUST do, asked with bare HTTP: no SDK of ours can paper over it.

Each test names the requirements that it is about, as the A2A project's compatibility kit numbers them (a2a-tck). Those
for gRPC are not ours; those for capabilities that the card does not declare (extended card, signatures, required
extensions) say that the operation is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.types import a2a_pb2
from a2a.utils.proto_utils import validate_proto_required_fields
from google.protobuf.json_format import ParseDict

from services.agents import a2a_server
from services.agents.push import PushSettings
from tests.services.agents.a2a_world import BINDINGS, QUICK, World, hook, until, world

both = pytest.mark.parametrize("binding", BINDINGS)

ERRORS = {
    "TaskNotFound": (-32001, 404, "TASK_NOT_FOUND"),
    "TaskNotCancelable": (-32002, 400, "TASK_NOT_CANCELABLE"),
    "UnsupportedOperation": (-32004, 400, "UNSUPPORTED_OPERATION"),
    "ContentTypeNotSupported": (-32005, 400, "CONTENT_TYPE_NOT_SUPPORTED"),
    "VersionNotSupported": (-32009, 400, "VERSION_NOT_SUPPORTED"),
    "InvalidParams": (-32602, 400, "INVALID_PARAMS"),
}
"""JSON-RPC's code, HTTP's status, and `ErrorInfo.reason` (5.4)."""
REST = {
    "SendMessage": ("POST", "/message:send"),
    "SendStreamingMessage": ("POST", "/message:stream"),
    "GetTask": ("GET", "/tasks/{id}"),
    "ListTasks": ("GET", "/tasks"),
    "CancelTask": ("POST", "/tasks/{id}:cancel"),
    "SubscribeToTask": ("POST", "/tasks/{id}:subscribe"),
    "CreateTaskPushNotificationConfig": ("POST", "/tasks/{taskId}/pushNotificationConfigs"),
    "GetTaskPushNotificationConfig": ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    "ListTaskPushNotificationConfigs": ("GET", "/tasks/{taskId}/pushNotificationConfigs"),
    "DeleteTaskPushNotificationConfig": ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    "GetExtendedAgentCard": ("GET", "/extendedAgentCard"),
}
"""11.3"""


class Failure(Exception):
    """An error as the binding has it, checked to be well formed."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason} {message}")
        self.code, self.reason = code, reason


@dataclass
class Wire:
    """One binding of one agent, byte by byte."""

    http: httpx.AsyncClient
    binding: str
    url: str

    async def call(self, operation: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
        request = self._request(operation, headers or {}, params)
        response = await self.http.send(request)
        if self.binding == "JSONRPC":
            assert response.status_code == 200 and response.headers["content-type"] == "application/json"
            return _unwrapped(response.json())
        if response.status_code >= 400:
            raise _rest_failure(response)
        assert response.status_code == 200 and response.headers["content-type"] == "application/a2a+json"
        return response.json()

    @asynccontextmanager
    async def stream(self, operation: str, **params: Any) -> AsyncIterator[AsyncIterator[Any]]:
        request = self._request(operation, {"accept": "text/event-stream"}, params)
        response = await self.http.send(request, stream=True)
        try:
            if not response.headers["content-type"].startswith("text/event-stream"):
                await response.aread()
                raise _rest_failure(response) if self.binding == "HTTP+JSON" else _rpc_failure(response.json())
            yield self._events(response)
        finally:
            await response.aclose()

    async def drain(self, operation: str, **params: Any) -> list[Any]:
        async with self.stream(operation, **params) as events:
            return [event async for event in events]

    async def send(self, text: str, id: str = "m-1", **more: Any) -> Any:
        configuration = {"configuration": more.pop("configuration")} if "configuration" in more else {}
        return (await self.call("SendMessage", message=said(text, id, **more), **configuration))["task"]

    def _request(self, operation: str, headers: dict[str, str], params: dict[str, Any]) -> httpx.Request:
        if self.binding == "JSONRPC":
            body = {"jsonrpc": "2.0", "id": "r-1", "method": operation, "params": params}
            return self.http.build_request("POST", self.url, json=body, headers=headers)
        method, path = REST[operation]
        path = re.sub(r"\{(\w+)\}", lambda match: params.pop(match[1]), path)
        if method == "POST" and params:
            return self.http.build_request(method, path, json=params, headers=headers)
        query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
        return self.http.build_request(method, path, params=query, headers=headers)

    async def _events(self, response: httpx.Response) -> AsyncIterator[Any]:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                event = _unwrapped(event) if self.binding == "JSONRPC" else event
                assert len(event) == 1 and set(event) <= {"task", "message", "statusUpdate", "artifactUpdate"}
                check(event, a2a_pb2.StreamResponse())
                yield event


def said(text: str, id: str = "m-1", **more: Any) -> dict[str, Any]:
    return {"role": "ROLE_USER", "parts": [{"text": text}], "messageId": id, **more}


def check(given: dict[str, Any], shape: Any) -> None:
    """DM-*, DM-SERIAL-*: the protocol's own definition takes it as it is: names, enumerations, and what is required."""
    validate_proto_required_fields(ParseDict(given, shape, ignore_unknown_fields=False))
    text = json.dumps(given)
    assert not re.search(r'"[a-z]+_[a-z_]+":', text), "field names are camelCase"
    for time in re.findall(r'"timestamp": "([^"]*)"', text):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", time), "milliseconds, UTC"


def _unwrapped(body: dict[str, Any]) -> Any:
    """JSONRPC-FMT-001."""
    assert body["jsonrpc"] == "2.0" and body["id"] == "r-1"
    if "error" in body:
        raise _rpc_failure(body)
    return body["result"]


def _rpc_failure(body: dict[str, Any]) -> Failure:
    """JSONRPC-ERR-001, 002, 003."""
    error = body["error"]
    assert set(error) <= {"code", "message", "data"} and isinstance(error["code"], int) and error["message"]
    assert -32099 <= error["code"] <= -32001 or -32700 <= error["code"] <= -32600
    return Failure(error["code"], _reason(error.get("data", [])), error["message"])


def _rest_failure(response: httpx.Response) -> Failure:
    """HTTP_JSON-ERR-001, 002."""
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["code"] == response.status_code and error["status"] and error["message"]
    return Failure(error["code"], _reason(error["details"]), error["message"])


def _reason(details: list[dict[str, Any]]) -> str:
    (info,) = [each for each in details if each["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"] or [{}]
    assert info.get("domain", "a2a-protocol.org") == "a2a-protocol.org"
    return info.get("reason", "")


@asynccontextmanager
async def wire(state: Path, binding: str, push: PushSettings = QUICK) -> AsyncIterator[tuple[World, Wire]]:
    async with world(state, push=push) as here:
        headers = {"authorization": f"Bearer {here.key}", "a2a-version": "1.0"}
        url = f"{here.url}/agents/clerk/a2a"
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            yield here, Wire(http, binding, url)


@asynccontextmanager
async def refused(name: str, binding: str) -> AsyncIterator[None]:
    """JSONRPC-SSE-002, HTTP_JSON-STATUS-001, BIND-EQUIV-003: this error, in the words of the binding."""
    code, status, reason = ERRORS[name]
    with pytest.raises(Failure) as failure:
        yield
    assert failure.value.code == (code if binding == "JSONRPC" else status), str(failure.value)
    assert failure.value.reason == reason or name == "InvalidParams"


async def test_card_has_all_that_is_required(state: Path) -> None:
    """CARD-DISC-001, CARD-STRUCT-001, CARD-PROTO-001, 002, CARD-CACHE-001, 002, BIND-FIELD-001, BIND-EQUIV-004."""
    async with wire(state, "JSONRPC") as (here, on):
        response = await on.http.get(f"{here.url}/agents/clerk/.well-known/agent-card.json")
        card = response.json()
        assert response.headers["content-type"] == "application/json"
        validate_proto_required_fields(ParseDict(card, a2a_pb2.AgentCard(), ignore_unknown_fields=True))
        assert {one["protocolBinding"] for one in card["supportedInterfaces"]} == set(BINDINGS)
        assert "etag" in response.headers and "max-age" in response.headers["cache-control"]


@both
async def test_message_starts_a_task_of_its_own(state: Path, binding: str) -> None:
    """CORE-SEND-001, CORE-MULTI-001a, 002, 003, CORE-GET-001, DM-*."""
    async with wire(state, binding) as (_, on):
        answer = await on.call("SendMessage", message=said("say Done."))
        check(answer, a2a_pb2.SendMessageResponse())
        task = answer["task"]
        assert task["id"] and task["contextId"] and task["status"]["state"] == "TASK_STATE_COMPLETED"
        other = await on.send("say Done.", contextId="my-context")
        assert other["contextId"] == "my-context" and other["id"] != task["id"]
        found = await on.call("GetTask", id=task["id"])
        check(found, a2a_pb2.Task())
        assert found == task


@both
async def test_what_is_not_there_is_not_found(state: Path, binding: str) -> None:
    """CORE-GET-002, CORE-CANCEL-003, CORE-MULTI-004, STREAM-SUB-004, PUSH-GET-002."""
    async with wire(state, binding) as (_, on):
        for operation in ("GetTask", "CancelTask"):
            async with refused("TaskNotFound", binding):
                await on.call(operation, id="nowhere")
        async with refused("TaskNotFound", binding):
            await on.drain("SubscribeToTask", id="nowhere")
        async with refused("TaskNotFound", binding):
            await on.send("more", taskId="nowhere")
        async with refused("TaskNotFound", binding):
            await on.call("ListTaskPushNotificationConfigs", taskId="nowhere")
        task = await on.send("say Done.")
        async with refused("TaskNotFound", binding):
            await on.call("GetTaskPushNotificationConfig", taskId=task["id"], id="nowhere")


@both
async def test_ended_task_takes_nothing_more(state: Path, binding: str) -> None:
    """CORE-SEND-002, CORE-CANCEL-002, STREAM-SUB-003."""
    async with wire(state, binding) as (_, on):
        for text in ("say Done.", "fail Out of ink.", "reject No."):
            id = (await on.send(text))["id"]
            async with refused("UnsupportedOperation", binding):
                await on.send("more", taskId=id)
            async with refused("TaskNotCancelable", binding):
                await on.call("CancelTask", id=id)
            async with refused("UnsupportedOperation", binding):
                await on.drain("SubscribeToTask", id=id)


@both
async def test_media_that_the_agent_does_not_take_are_refused(state: Path, binding: str) -> None:
    """CORE-SEND-003."""
    parts = [
        {"raw": "dGNr", "mediaType": "application/x-unsupported"},
        {"raw": "dGNr"},
        {"url": "https://example.com/picture.png", "mediaType": "image/png"},
        {"text": "<p>", "mediaType": "text/html"},
    ]
    async with wire(state, binding) as (here, on):
        for part in parts:
            async with refused("ContentTypeNotSupported", binding):
                await on.call("SendMessage", message=said("") | {"parts": [part]})
        assert here.runs.started == 0
        data = {"data": {"city": "Lyon"}, "mediaType": "application/json"}
        answer = await on.call("SendMessage", message=said("") | {"parts": [{"text": "letter"}, data]})
        assert answer["task"]["artifacts"][0]["parts"][0]["text"] == 'letter\n{"city": "Lyon"}'


@both
async def test_body_that_is_not_json_is_refused(state: Path, binding: str) -> None:
    """JSONRPC-SSE-002, HTTP_JSON-STATUS-001 (ContentTypeNotSupportedError)."""
    async with wire(state, binding) as (here, on):
        request = on._request("SendMessage", {"content-type": "text/plain"}, {"message": said("say Done.")})
        response = await on.http.send(request)
        if binding == "JSONRPC":
            assert response.status_code == 200
            failure = _rpc_failure(response.json())
        else:
            failure = _rest_failure(response)
        assert (failure.code, failure.reason) in [
            (ERRORS["ContentTypeNotSupported"][binding != "JSONRPC"], "CONTENT_TYPE_NOT_SUPPORTED")
        ]
        assert here.runs.started == 0


@both
async def test_stream_is_the_task_and_what_happens_to_it_in_order(state: Path, binding: str) -> None:
    """CORE-STREAM-001, 003, STREAM-ORDER-001, JSONRPC-SSE-001, HTTP_JSON-SSE-001."""
    order = {"SUBMITTED": 0, "WORKING": 1, "INPUT_REQUIRED": 1, "COMPLETED": 2}
    async with wire(state, binding) as (_, on):
        events = await on.drain("SendStreamingMessage", message=said("step\nstep\nsay Done."))
        assert "task" in events[0] and not any("task" in event for event in events[1:])
        updates = [next(iter(event.values())) for event in events if "artifactUpdate" not in event]
        places = [order[update["status"]["state"].removeprefix("TASK_STATE_")] for update in updates]
        assert places == sorted(places) and places[-1] == 2 and "statusUpdate" in events[-1]


@both
async def test_subscribers_see_the_task_first_and_all_the_same_until_its_end(state: Path, binding: str) -> None:
    """STREAM-SUB-001, 002, STREAM-ORDER-002, 003, 004."""
    async with wire(state, binding) as (_, on):
        id = (await on.send("ask Which?\nstep\nsay {}"))["id"]
        async with on.stream("SubscribeToTask", id=id) as one, on.stream("SubscribeToTask", id=id) as other:
            async with on.stream("SubscribeToTask", id=id) as early:
                assert "task" in await anext(early)
            first, second = [await anext(one)], [await anext(other)]
            await on.send("This", "m-2", taskId=id)
            first += [event async for event in one]
            second += [event async for event in other]
        assert first == second and "task" in first[0] and len(first) > 2
        assert first[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@both
async def test_send_waits_for_the_end_or_a_question_unless_told_not_to(state: Path, binding: str) -> None:
    """CORE-EXECUTION-MODE-001, 002."""
    async with wire(state, binding) as (here, on):
        at_once = await on.send("wait\nsay Done.", configuration={"returnImmediately": True})
        assert at_once["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
        here.runs.release(at_once["id"])
        asked = await on.send("step\nask Which?\nstep\nsay {}", configuration={"returnImmediately": False})
        assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        ended = await on.send("This", "m-2", taskId=asked["id"])
        assert ended["status"]["state"] == "TASK_STATE_COMPLETED"


@both
async def test_context_comes_from_the_task_and_no_other_will_do(state: Path, binding: str) -> None:
    """CORE-MULTI-002a, 005, 006."""
    async with wire(state, binding) as (_, on):
        asked = await on.send("ask Which?\nask And then?\nsay {}")
        async with refused("InvalidParams", binding):
            await on.send("This", "m-2", taskId=asked["id"], contextId="another")
        again = await on.send("This", "m-3", taskId=asked["id"])
        assert again["contextId"] == asked["contextId"]
        done = await on.send("That", "m-4", taskId=asked["id"], contextId=asked["contextId"])
        assert done["status"]["state"] == "TASK_STATE_COMPLETED"
        async with refused("InvalidParams", binding):
            await on.send("say Done.", contextId="forbidden")


@both
async def test_cancel_gives_the_task_as_it_is_then(state: Path, binding: str) -> None:
    """CORE-CANCEL-001."""
    async with wire(state, binding) as (_, on):
        for text in ("ask Which?", "wait"):
            id = (await on.send(text, configuration={"returnImmediately": True}))["id"]
            canceled = await on.call("CancelTask", id=id)
            check(canceled, a2a_pb2.Task())
            assert canceled["id"] == id and canceled["status"]["state"] == "TASK_STATE_CANCELED"


@both
async def test_history_is_no_longer_than_wanted(state: Path, binding: str) -> None:
    """CORE-HIST-001 to 006."""
    async with wire(state, binding) as (_, on):
        task = await on.send("say Done.")
        assert task["history"][0]["parts"] == [{"text": "say Done."}]
        for length in (0, 1, 5):
            found = await on.call("GetTask", id=task["id"], historyLength=length)
            assert len(found.get("history", [])) == min(length, 1)
        assert "history" not in await on.send("say Done.", configuration={"historyLength": 0})
        async with refused("InvalidParams", binding):
            await on.call("GetTask", id=task["id"], historyLength=-1)


@both
async def test_listing_is_paged_by_cursor_with_the_latest_change_first(state: Path, binding: str) -> None:
    """CORE-LIST-001 to 005, HTTP_JSON-QP-001, AUTH-SCOPE-001, 002, 003."""
    async with wire(state, binding) as (here, on):
        sent = [(await on.send(f"say {n}", contextId="shelf"))["id"] for n in range(3)]
        first = await on.call("ListTasks", contextId="shelf", pageSize=2)
        assert len(first["tasks"]) == 2 and first["nextPageToken"] and first["totalSize"] == 3
        last = await on.call("ListTasks", contextId="shelf", pageSize=2, pageToken=first["nextPageToken"])
        assert last["nextPageToken"] == "" and last["pageSize"] == 2
        assert [task["id"] for task in first["tasks"] + last["tasks"]] == sent[::-1]
        assert not any("artifacts" in task for task in first["tasks"])
        whole = await on.call("ListTasks", contextId="shelf", includeArtifacts=True)
        assert all(task["artifacts"] for task in whole["tasks"])
        empty = await on.call("ListTasks", contextId="another")
        assert empty == {"tasks": [], "nextPageToken": "", "pageSize": 50, "totalSize": 0}
        on.http.headers["authorization"] = f"Bearer {here.other}"
        assert (await on.call("ListTasks"))["totalSize"] == 0
        async with refused("TaskNotFound", binding):
            await on.call("GetTask", id=sent[0])
        for size in (0, 101):
            async with refused("InvalidParams", binding):
                await on.call("ListTasks", pageSize=size)


@both
async def test_input_is_checked_before_anything_happens(state: Path, binding: str) -> None:
    """CORE-ERR-001, 002, DM-SERIAL-004, 005."""
    async with wire(state, binding) as (here, on):
        for broken in (
            {},
            {"message": {}},
            {"message": said("hi") | {"messageId": ""}},
            {"message": said("hi") | {"parts": []}},
            {"message": said("hi") | {"role": "ROLE_UNSPECIFIED"}},
            {"message": said("hi") | {"role": "ROLE_AGENT"}},
            {"message": said("  ")},
        ):
            async with refused("InvalidParams", binding):
                await on.call("SendMessage", **(broken or {"configuration": {}}))
        assert here.runs.started == 0
        unknown = {"message": said("say Done.") | {"novelty": 1}, "other": 2}
        assert (await on.call("SendMessage", **unknown))["task"]["id"]


@both
async def test_only_version_1_is_spoken(state: Path, binding: str) -> None:
    """VER-SERVER-001, 002, 003, VER-CLIENT-002."""
    async with wire(state, binding) as (here, on):
        for version in ("99.0", "0.3", "", "new"):
            async with refused("VersionNotSupported", binding):
                await on.call("SendMessage", {"a2a-version": version}, message=said("say Done."))
        assert here.runs.started == 0
        assert await on.call("SendMessage", {"a2a-version": "1.0.7"}, message=said("say Done."))


@both
async def test_unknown_extensions_do_no_harm_and_the_extended_card_is_refused(state: Path, binding: str) -> None:
    """CORE-CAP-003, CARD-EXT-002, JSONRPC-SVC-002, HTTP_JSON-SVC-002."""
    extensions = {"a2a-extensions": "https://example.com/ext/v1,https://example.com/ext/v2"}
    async with wire(state, binding) as (_, on):
        assert await on.call("SendMessage", extensions, message=said("say Done."))
        async with refused("UnsupportedOperation", binding):
            await on.call("GetExtendedAgentCard")


@both
async def test_push_configurations_live_until_they_are_deleted(state: Path, binding: str) -> None:
    """PUSH-CREATE-001, 002, PUSH-GET-001, PUSH-LIST-001, PUSH-DEL-001, 002."""
    config = {"id": "c-1", "url": "https://example.com/hook"}
    async with wire(state, binding) as (_, on):
        id = (await on.send("say Done."))["id"]
        made = await on.call("CreateTaskPushNotificationConfig", taskId=id, **config)
        check(made, a2a_pb2.TaskPushNotificationConfig())
        assert await on.call("GetTaskPushNotificationConfig", taskId=id, id="c-1") == made
        assert (await on.call("ListTaskPushNotificationConfigs", taskId=id))["configs"] == [made]
        for _ in range(2):
            await on.call("DeleteTaskPushNotificationConfig", taskId=id, id="c-1")
        async with refused("TaskNotFound", binding):
            await on.call("GetTaskPushNotificationConfig", taskId=id, id="c-1")


@both
async def test_push_notifications_are_stream_responses_with_the_credentials(state: Path, binding: str) -> None:
    """PUSH-DELIVER-001, 002, 003."""
    async with hook() as hears, wire(state, binding) as (_, on):
        auth = {"scheme": "Bearer", "credentials": "secret"}
        config = {"id": "c-1", "url": hears.url, "authentication": auth}
        asked = await on.send("ask Which?\nsay {}", configuration={"taskPushNotificationConfig": config})
        await on.send("This", "m-2", taskId=asked["id"])
        await until(lambda: "COMPLETED" in hears.states)
        for body, headers in zip(hears.bodies, hears.headers, strict=True):
            check(body, a2a_pb2.StreamResponse())
            assert len(body) == 1 and headers["authorization"] == "Bearer secret"


async def test_json_rpc_is_kept_to_the_letter(state: Path) -> None:
    """JSONRPC-FMT-001, 002, JSONRPC-SVC-001, JSONRPC-ERR-001."""
    params = {"message": said("say Done.")}
    table: list[tuple[Any, int]] = [
        ({"jsonrpc": "2.0", "id": 1, "method": "NoSuchMethod", "params": {}}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": params}, -32601),
        ({"jsonrpc": "1.0", "id": 1, "method": "SendMessage", "params": params}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "params": params}, -32600),
        ([{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}], -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": 7}}, -32602),
    ]
    async with wire(state, "JSONRPC") as (here, on):
        for body, code in table:
            response = await on.http.post("", json=body)
            assert response.status_code == 200 and _rpc_failure(response.json()).code == code, body
        broken = await on.http.post(f"{on.url}/", content=b"{", headers={"content-type": "application/json"})
        assert _rpc_failure(broken.json()).code == -32700
        assert here.runs.started == 0


@both
async def test_request_that_is_too_long_is_refused(state: Path, binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.3.2: whether its length is told beforehand or not."""
    monkeypatch.setattr(a2a_server, "MOST_BYTES", 1000)
    async with wire(state, binding) as (here, on):
        for operation in ("SendMessage", "SendStreamingMessage"):
            request = on._request(operation, {}, {"message": said("x" * 2000)})

            async def pieces(content: bytes = request.content) -> AsyncIterator[bytes]:
                yield content

            for content in (request.content, pieces()):
                headers = {"content-type": "application/json"}
                response = await on.http.post(request.url, content=content, headers=headers)
                failure = (_rpc_failure if binding == "JSONRPC" else _rest_failure)(
                    response.json() if binding == "JSONRPC" else response  # type: ignore[arg-type]
                )
                assert failure.code in (-32600, 400) and "1,000 bytes" in str(failure)
        assert here.runs.started == 0


@both
async def test_every_operation_wants_a_key(state: Path, binding: str) -> None:
    """AUTH-SERVER-002, AUTH-SCOPE-001."""
    async with wire(state, binding) as (_, on):
        del on.http.headers["authorization"]
        for operation in REST:
            request = on._request(operation, {}, {"id": "x", "taskId": "x"})
            response = await on.http.send(request)
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"


@both
async def test_defect_says_nothing_of_itself(
    state: Path, binding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """3.3.2: an internal error, and what it was is in our log alone."""
    async with wire(state, binding) as (here, on):

        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("the password is swordfish")

        monkeypatch.setattr(here.runs, "get", broken)
        with pytest.raises(Failure) as failure:
            await on.call("GetTask", id="x")
        assert failure.value.code == (-32603 if binding == "JSONRPC" else 500)
        assert "swordfish" not in str(failure.value) and "swordfish" in caplog.text
