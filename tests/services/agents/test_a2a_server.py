from __future__ import annotations

from pathlib import Path

import pytest
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SubscribeToTaskRequest,
    TaskState,
)
from a2a.utils.errors import InvalidParamsError, TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from services.agents.a2a_tasks import REPEATABLE
from services.agents.contract import Agent
from tests.services.agents.a2a_world import BINDINGS, message, send, until, world
from tests.services.agents.fake_runs import FakeRuns

both = pytest.mark.parametrize("binding", BINDINGS)


async def test_card_says_how_to_reach_each_agent_and_needs_no_key(state: Path) -> None:
    runs = FakeRuns(clerk=Agent(description="Answers letters."), cook=Agent(description="Cooks."))
    async with world(state, runs) as here, here.http(key=None) as http:
        for name, description in {"clerk": "Answers letters.", "cook": "Cooks."}.items():
            response = await http.get(f"/agents/{name}/.well-known/agent-card.json")
            card = response.json()
            assert (card["name"], card["description"]) == (name, description)
            assert {one["protocolBinding"]: one["url"] for one in card["supportedInterfaces"]} == {
                binding: f"{here.url}/agents/{name}/a2a" for binding in BINDINGS
            }
            assert {one["protocolVersion"] for one in card["supportedInterfaces"]} == {"1.0"}
            assert card["capabilities"]["streaming"] and card["capabilities"]["pushNotifications"]
            assert card["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]["scheme"] == "Bearer"
            assert "bearer" in card["securityRequirements"][0]["schemes"]
            assert "max-age" in response.headers["cache-control"]
            again = await http.get(response.url.path, headers={"if-none-match": response.headers["etag"]})
            assert again.status_code == 304
        assert (await http.get("/agents/nobody/.well-known/agent-card.json")).status_code == 404


async def test_card_is_for_those_with_a_key_alone_and_says_another_address_where_the_settings_do(state: Path) -> None:
    url = "https://agents.example.org/all"
    async with world(state, public_cards=False, url=url) as here, here.http(key=None) as http:
        path = "/agents/clerk/.well-known/agent-card.json"
        assert (await http.get(path)).status_code == 401
        card = (await http.get(path, headers={"authorization": f"Bearer {here.key}"})).json()
        assert {one["url"] for one in card["supportedInterfaces"]} == {f"{url}/clerk/a2a"}


@both
async def test_message_is_answered_when_the_run_has_ended(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client:
        (answer,) = await send(client, message("step\nsay Done."))
        assert answer.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert answer.task.artifacts[0].parts[0].text == "Done."
        assert answer.task.history[0].parts[0].text == "step\nsay Done."
        assert answer.task.context_id == f"thread-{answer.task.id}"


@both
async def test_message_is_answered_at_once_where_that_is_wanted(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client, here.client(binding) as follower:
        (answer,) = await send(client, message("wait\nsay Done."), return_immediately=True)
        assert answer.task.status.state in (TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING)
        stream = follower.subscribe(SubscribeToTaskRequest(id=answer.task.id))
        assert (await anext(stream)).task.id == answer.task.id
        here.runs.release(answer.task.id)
        *_, last = [event async for event in stream]
        assert last.status_update.status.state == TaskState.TASK_STATE_COMPLETED
        assert (await client.get_task(GetTaskRequest(id=answer.task.id))).artifacts[0].parts[0].text == "Done."


@both
async def test_stream_begins_with_the_task_and_ends_with_its_last_state(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding) as client:
        events = await send(client, message("step\nstep\nsay Done."))
        kinds = [event.WhichOneof("payload") for event in events]
        assert kinds[0] == "task" and set(kinds[1:-2]) == {"status_update"}
        assert kinds[-2:] == ["artifact_update", "status_update"]
        steps = [event.status_update.metadata["event"] for event in events[1:-2]]
        assert steps == ["working", "stepped", "stepped", "ended"]
        assert events[-2].artifact_update.artifact.parts[0].text == "Done."
        assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED


@both
async def test_question_is_answered_by_a_further_message(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding) as client:
        asked = (await send(client, message("ask Which city?\nsay Off to {}.")))[-1].status_update
        assert asked.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert asked.status.message.parts[0].text == "Which city?"
        events = await send(client, message("Lyon", "m-2", task_id=asked.task_id))
        assert events[0].task.id == asked.task_id
        assert events[-2].artifact_update.artifact.parts[0].text == "Off to Lyon."


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        (Part(text="approve"), "True"),
        (Part(text="No"), None),
        (Part(data=ParseDict({"approved": True}, Value())), "True"),
        (Part(data=ParseDict({"approved": True, "result": "sent at noon"}, Value())), "sent at noon"),
        (Part(data=ParseDict({"approved": False}, Value())), None),
    ],
)
async def test_call_in_question_is_approved_or_denied(state: Path, part: Part, answer: str | None) -> None:
    async with world(state) as here, here.client(streaming=False) as client:
        (asked,) = await send(client, message("call Send the letter?\nsay {}"))
        assert asked.task.status.message.parts[1].data.struct_value["operation"] == "op-1"
        with pytest.raises(InvalidParamsError, match="yes or no"):
            await send(client, message("perhaps", "m-2", task_id=asked.task.id))
        said = Message(message_id="m-3", task_id=asked.task.id, role=Role.ROLE_USER, parts=[part])
        (end,) = await send(client, said)
        if answer is None:
            assert end.task.status.state == TaskState.TASK_STATE_FAILED
            assert end.task.status.message.parts[0].text == "the call was denied"
        else:
            assert end.task.artifacts[0].parts[0].text == answer


@both
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("verb", ["tool", "child"])
async def test_question_of_a_call_or_a_sub_agent_takes_words(
    state: Path, binding: str, streaming: bool, verb: str
) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client:
        (asked,) = await send(client, message(f"{verb} Window or aisle?\n{verb} Sure?\nsay {{}}"))
        assert asked.task.status.message.parts[0].text == "Window or aisle?"
        async with here.client(binding, streaming=streaming) as client:
            last = (await send(client, message("window", "m-2", task_id=asked.task.id)))[-1]
            status = last.status_update.status if streaming else last.task.status
            assert status.message.parts[0].text == "Sure?"
            await send(client, message("yes", "m-3", task_id=asked.task.id))
            end = await client.get_task(GetTaskRequest(id=asked.task.id))
            assert end.artifacts[0].parts[0].text == "yes"


async def test_question_that_was_answered_is_not_shown_again(state: Path) -> None:
    async with world(state) as here, here.client(streaming=False) as client:
        (asked,) = await send(client, message("child Which?\nwait"))
        (then,) = await send(client, message("This", "m-2", task_id=asked.task.id), return_immediately=True)
        assert then.task.status.state == TaskState.TASK_STATE_WORKING and not then.task.status.HasField("message")


@both
async def test_all_who_subscribe_see_the_same_until_the_end_beyond_a_question(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client, here.client(binding) as follower:
        (asked,) = await send(client, message("ask Which?\nstep\nsay {}"))
        follow = SubscribeToTaskRequest(id=asked.task.id)
        first, second, third = (follower.subscribe(follow) for _ in range(3))
        seen = [[await anext(stream)] for stream in (first, second, third)]
        await third.aclose()  # type: ignore[attr-defined]
        await send(client, message("This one", "m-2", task_id=asked.task.id))
        for events, stream in zip(seen, (first, second), strict=False):
            events += [event async for event in stream]
        assert seen[0] == seen[1] and len(seen[0]) > 3
        assert seen[0][0].task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert seen[0][-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED


@both
async def test_working_task_is_canceled_and_an_ended_one_is_not(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client, here.client(binding) as follower:
        (sent,) = await send(client, message("wait"), return_immediately=True)
        canceled = await client.cancel_task(CancelTaskRequest(id=sent.task.id))
        assert canceled.status.state == TaskState.TASK_STATE_CANCELED
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=sent.task.id))
        with pytest.raises(UnsupportedOperationError):
            await anext(follower.subscribe(SubscribeToTaskRequest(id=sent.task.id)))
        with pytest.raises(UnsupportedOperationError, match="canceled"):
            await send(client, message("more", "m-2", task_id=sent.task.id))


@both
async def test_ended_runs_say_why(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client:
        for verb, wanted in {"fail": TaskState.TASK_STATE_FAILED, "reject": TaskState.TASK_STATE_REJECTED}.items():
            (end,) = await send(client, message(f"{verb} Out of ink."))
            assert end.task.status.state == wanted and end.task.status.message.parts[0].text == "Out of ink."


@both
async def test_listing_is_paged_by_latest_change_and_filtered(state: Path, binding: str) -> None:
    async with world(state) as here, here.client(binding, streaming=False) as client:
        texts = ["wait\nsay last", "say b", "say c", "fail d", "say e"]
        sent = [(await send(client, message(text), return_immediately=True))[0].task.id for text in texts]
        await until(lambda: here.runs.view(sent[4]).state == "completed")
        here.runs.release(sent[0])
        await until(lambda: here.runs.view(sent[0]).state == "completed")
        found, token, pages = [], "", 0
        while pages == 0 or token:
            page = await client.list_tasks(ListTasksRequest(page_size=2, page_token=token))
            assert page.total_size == 5 and len(page.tasks) <= 2 and not any(task.artifacts for task in page.tasks)
            found, token, pages = [*found, *page.tasks], page.next_page_token, pages + 1
        assert pages == 3 and [task.id for task in found][:2] == [sent[0], sent[4]]
        assert {task.id for task in found} == set(sent)
        failed = await client.list_tasks(ListTasksRequest(status=TaskState.TASK_STATE_FAILED, include_artifacts=True))
        assert [task.id for task in failed.tasks] == [sent[3]]
        one = await client.list_tasks(ListTasksRequest(context_id=f"thread-{sent[1]}", include_artifacts=True))
        assert [task.artifacts[0].parts[0].text for task in one.tasks] == ["b"]
        since = await client.list_tasks(ListTasksRequest(status_timestamp_after=found[0].status.timestamp))
        assert [task.id for task in since.tasks] == [sent[0]]
        with pytest.raises(InvalidParamsError, match="page token"):
            await client.list_tasks(ListTasksRequest(page_token="made-up"))


@both
async def test_tasks_of_others_are_not_there(state: Path, binding: str) -> None:
    runs = FakeRuns(clerk=Agent(description="Answers letters."), cook=Agent(description="Cooks."))
    async with (
        world(state, runs) as here,
        here.client(binding, streaming=False) as mine,
        here.client(binding, key=here.other) as theirs,
        here.client(binding, agent="cook") as elsewhere,
    ):
        (asked,) = await send(mine, message("ask Which?"))
        id = asked.task.id
        for client in (theirs, elsewhere):
            assert not (await client.list_tasks(ListTasksRequest())).tasks
            for attempt in (
                client.get_task(GetTaskRequest(id=id)),
                client.cancel_task(CancelTaskRequest(id=id)),
                send(client, message("me", task_id=id)),
                anext(client.subscribe(SubscribeToTaskRequest(id=id))),
            ):
                with pytest.raises(TaskNotFoundError):
                    await attempt
        assert (await mine.get_task(GetTaskRequest(id=id))).status.state == TaskState.TASK_STATE_INPUT_REQUIRED


async def test_nobody_gets_in_without_a_key_that_has_the_scope(state: Path) -> None:
    async with world(state) as here, here.http(key=None) as http:
        for method, path in (("POST", ""), ("POST", "/message:send"), ("POST", "/message:stream"), ("GET", "/tasks")):
            url = f"/agents/clerk/a2a{path}"
            none = await http.request(method, url)
            assert none.status_code == 401 and none.headers["www-authenticate"] == "Bearer"
            wrong = await http.request(method, url, headers={"authorization": f"Bearer {here.key}x"})
            assert wrong.status_code == 401
            unfit = await http.request(method, url, headers={"authorization": f"Bearer {here.unfit}"})
            assert unfit.status_code == 403 and "scope agents" in unfit.json()["error"]["message"]
        assert here.runs.started == 0


async def test_task_is_still_there_when_the_server_is_another(state: Path) -> None:
    runs = FakeRuns()
    async with world(state, runs) as before, before.client(streaming=False) as client:
        (asked,) = await send(client, message("ask Which?\nsay {}"))
        key = before.key
    async with world(state, runs) as after, after.client(key=key) as client:
        found = await client.get_task(GetTaskRequest(id=asked.task.id))
        assert found.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        events = await send(client, message("That one", "m-2", task_id=found.id))
        assert events[-2].artifact_update.artifact.parts[0].text == "That one"


@both
async def test_repeated_message_finds_its_task_where_the_extension_is_asked_for(state: Path, binding: str) -> None:
    async with world(state) as here:
        url = "/agents/clerk/a2a" + ("/message:send" if binding == "HTTP+JSON" else "")
        params = {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "say Done."}]}}
        body = params if binding == "HTTP+JSON" else {"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}
        if binding == "JSONRPC":
            body["params"] = params

        async def ids(key: str, **headers: str) -> set[str]:
            async with here.http(key, **headers) as http:
                answers = [(await http.post(url, json=body)).json() for _ in range(2)]
            return {answer.get("result", answer)["task"]["id"] for answer in answers}

        assert len(await ids("")) == 2
        mine, theirs = [await ids(key, **{"a2a-extensions": REPEATABLE}) for key in ("", here.other)]
        assert len(mine) == len(theirs) == 1 and mine != theirs
