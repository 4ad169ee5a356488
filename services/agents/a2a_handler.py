"""A2A's operations, answered from `Runs`. Nothing is kept here: any replica answers for any task.

The SDK's own handler has tasks of its own and a store to keep them in; ours are runs, which are durable already.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers import RequestHandler
from a2a.server.request_handlers.request_handler import validate_request_params
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
)
from a2a.utils.constants import DEFAULT_LIST_TASKS_PAGE_SIZE
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.task import (
    ListTasksCursor,
    apply_history_length,
    decode_list_tasks_cursor,
    encode_list_tasks_cursor,
    validate_history_length,
    validate_page_size,
)

from cluster.auth import Principal
from services.agents import a2a_tasks
from services.agents.a2a_tasks import REPEATABLE, decision, events, run_id, settle
from services.agents.contract import ENDED, Busy, Runs, View
from services.agents.push import Subscription, Subscriptions

logger = logging.getLogger(__name__)

LISTED = 1_000
"""Newest runs of an agent that a listing looks through."""

_Answer = TypeVar("_Answer")


def operation(method: Callable[..., Any]) -> Any:
    """An operation whose required fields are there, and whose defects are in our log and not in the answer."""
    checked = validate_request_params(method)

    def defect(error: Exception) -> NoReturn:
        if isinstance(error, A2AError):
            raise error
        logger.exception("%s failed", method.__name__)
        raise InternalError from None

    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(*arguments: Any) -> AsyncGenerator[Event]:
            try:
                async with aclosing(checked(*arguments)) as items:
                    async for item in items:
                        yield item
            except Exception as error:
                defect(error)

        return stream

    @functools.wraps(method)
    async def call(*arguments: Any) -> Any:
        try:
            return await checked(*arguments)
        except Exception as error:
            defect(error)

    return call


class Handler(RequestHandler):
    """One agent's tasks, which are its runs. Section numbers are A2A 1.0's."""

    def __init__(self, runs: Runs, agent: str, subscriptions: Subscriptions, poll_s: float) -> None:
        self._runs, self._agent, self._poll_s = runs, agent, poll_s
        self._subscriptions = subscriptions

    @operation
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task | Message:
        """3.1.1: the task once it has ended or asks, or at once."""
        view, answered = await self._send(params, context)
        if not params.configuration.return_immediately:
            view = await settle(self._runs, _who(context), view, self._poll_s, answered)
        elif answered:
            view = a2a_tasks.at_work(view)
        return apply_history_length(a2a_tasks.task(view), params.configuration)

    @operation
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """3.1.2."""
        view, answered = await self._send(params, context)
        stream = events(self._runs, _who(context), view, self._poll_s, answered=answered)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for event in news:
                yield apply_history_length(event, params.configuration) if isinstance(event, Task) else event

    @operation
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        """3.1.3."""
        validate_history_length(params)
        return apply_history_length(a2a_tasks.task(await self._view(context, params.id)), params)

    @operation
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """3.1.4: latest change first."""
        validate_history_length(params)
        if params.HasField("page_size"):
            validate_page_size(params.page_size)
        views = await _asked(self._runs.list(_who(context), self._agent, LISTED))
        tasks = sorted((a2a_tasks.task(view) for view in views), key=_place, reverse=True)
        tasks = [task for task in tasks if _is_meant(task, params)]
        after = _cursor(params.page_token)
        rest = [task for task in tasks if after is None or _place(task) < after]
        size = params.page_size or DEFAULT_LIST_TASKS_PAGE_SIZE
        page = [apply_history_length(task, params) for task in rest[:size]]
        if not params.include_artifacts:
            for task in page:
                task.ClearField("artifacts")
        following = encode_list_tasks_cursor(ListTasksCursor(*_place(page[-1]))) if len(rest) > size else ""
        return ListTasksResponse(tasks=page, next_page_token=following, page_size=size, total_size=len(tasks))

    @operation
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        """3.1.5."""
        view = await self._view(context, params.id)
        if view.state in ENDED:
            raise TaskNotCancelableError(f"the task is {view.state} already")
        return a2a_tasks.task(await _asked(self._runs.cancel(_who(context), view.id), TaskNotCancelableError))

    @operation
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """3.1.6: until the task ends, questions or not."""
        view = await self._view(context, params.id)
        if view.state in ENDED:
            raise UnsupportedOperationError(f"the task is {view.state}; there is nothing to follow, get it instead")
        stream = events(self._runs, _who(context), view, self._poll_s, beyond=True)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for event in news:
                yield event

    @operation
    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """3.1.7."""
        view = await self._view(context, params.task_id)
        return await self._subscribe(view, params)

    @operation
    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """3.1.8."""
        for one in await self._configured(context, params.task_id):
            if one.id == params.id:
                return one
        raise TaskNotFoundError("this task has no such push notification configuration")

    @operation
    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> ListTaskPushNotificationConfigsResponse:
        """3.1.9: all of them; a task has few."""
        return ListTaskPushNotificationConfigsResponse(configs=await self._configured(context, params.task_id))

    @operation
    async def on_delete_task_push_notification_config(
        self, params: DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        """3.1.10: deleted is deleted, however often."""
        view = await self._view(context, params.task_id)
        await asyncio.to_thread(self._subscriptions.drop, view.id, params.id)

    @operation
    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        """3.1.11, 3.3.4."""
        raise UnsupportedOperationError("the card says everything; there is no extended one")

    async def _send(self, params: SendMessageRequest, context: ServerCallContext) -> tuple[View, bool]:
        """The run, and whether it still shows a question that was just answered."""
        validate_history_length(params.configuration)
        push = params.configuration.task_push_notification_config
        if wanted := params.configuration.HasField("task_push_notification_config"):
            _checked(self._subscriptions.check, _subscription("", "", push))
        view, answered = await (self._answer if params.message.task_id else self._start)(params.message, context)
        if wanted:
            await self._subscribe(view, push)
        return view, answered

    async def _start(self, message: Message, context: ServerCallContext) -> tuple[View, bool]:
        who, asked = _who(context), a2a_tasks.text(message)
        run = run_id(who, self._agent, message.message_id) if REPEATABLE in context.requested_extensions else None
        thread = message.context_id or None
        return await _asked(self._runs.start(who, self._agent, asked, thread=thread, run=run)), False

    async def _answer(self, message: Message, context: ServerCallContext) -> tuple[View, bool]:
        """3.4.3: a further message to a task answers its question."""
        who, before = _who(context), await self._view(context, message.task_id)
        if message.context_id and message.context_id != before.thread:
            raise InvalidParamsError(f"task {before.id} is not of this context; leave the context out")
        if before.state != "input-required":
            raise UnsupportedOperationError(f"the task is {before.state}; it takes a message when it asks")
        view = await self._decided(who, before, message)
        if view is None:
            view = await _asked(self._runs.say(who, before.id, a2a_tasks.text(message)))
        return view, view.state == "input-required" and view.updated == before.updated

    async def _decided(self, who: Principal, view: View, message: Message) -> View | None:
        """The run after a yes or no; None if that is not what was said, or not what it wants to hear."""
        if view.wants != "approval" or (said := decision(message)) is None:
            return None
        return await _asked(self._runs.approve(who, view.id, *said))

    async def _view(self, context: ServerCallContext, run: str) -> View:
        view = await _asked(self._runs.get(_who(context), run))
        if view.agent != self._agent:
            raise TaskNotFoundError
        return view

    async def _subscribe(self, view: View, config: TaskPushNotificationConfig) -> TaskPushNotificationConfig:
        subscription = _subscription(view.id, view.principal, config)
        await asyncio.to_thread(_checked, self._subscriptions.put, subscription)
        return _config(subscription)

    async def _configured(self, context: ServerCallContext, run: str) -> list[TaskPushNotificationConfig]:
        view = await self._view(context, run)
        return [_config(one) for one in await asyncio.to_thread(self._subscriptions.of, view.id)]


def _who(context: ServerCallContext) -> Principal:
    return context.state["principal"]


async def _asked(answer: Awaitable[_Answer], refusal: type[A2AError] = InvalidParamsError) -> _Answer:
    """What `Runs` says, its refusals in A2A's words."""
    try:
        return await answer
    except KeyError:
        raise TaskNotFoundError from None
    except ValueError as error:
        raise refusal(str(error)) from None
    except Busy as error:
        raise InternalError(str(error)) from None


def _checked(call: Callable[[Subscription], None], subscription: Subscription) -> None:
    try:
        call(subscription)
    except ValueError as error:
        raise InvalidParamsError(str(error)) from None


def _place(task: Task) -> tuple[int, str]:
    """In the order of a listing."""
    return task.status.timestamp.ToNanoseconds(), task.id


def _cursor(token: str) -> tuple[int, str] | None:
    """The place of the last task of the page before."""
    if not token:
        return None
    cursor = decode_list_tasks_cursor(token)
    if cursor is None or cursor.timestamp_ns is None:
        raise InvalidParamsError("the page token is not one of ours; take it from the page before")
    return cursor.timestamp_ns, cursor.task_id


def _is_meant(task: Task, params: ListTasksRequest) -> bool:
    after = params.status_timestamp_after if params.HasField("status_timestamp_after") else None
    return (
        (not params.context_id or task.context_id == params.context_id)
        and (not params.status or task.status.state == params.status)
        and (after is None or task.status.timestamp.ToNanoseconds() >= after.ToNanoseconds())
    )


def _subscription(run: str, principal: str, config: TaskPushNotificationConfig) -> Subscription:
    return Subscription(
        run=run,
        id=config.id or run,
        principal=principal,
        url=config.url,
        token=config.token,
        scheme=config.authentication.scheme,
        credentials=config.authentication.credentials,
    )


def _config(subscription: Subscription) -> TaskPushNotificationConfig:
    config = TaskPushNotificationConfig(
        id=subscription.id, task_id=subscription.run, url=subscription.url, token=subscription.token
    )
    if subscription.scheme:
        config.authentication.scheme, config.authentication.credentials = subscription.scheme, subscription.credentials
    return config
