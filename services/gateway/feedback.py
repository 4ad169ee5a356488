"""`POST /v1/feedback`: what somebody thought of an answer. 200 only once it is on disk."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, field_validator
from starlette.types import Receive, Scope, Send

from cluster import ids, telemetry
from cluster.log import LogUnavailable
from cluster.records import Feedback, Message
from services.gateway.call import call_of
from services.gateway.errors import Refusal, send_json
from services.gateway.keeper import Keeper, unavailable

_ANSWER_ID = re.compile(r"(?:chatcmpl-|cmpl-|resp_)?(req-[0-9a-f]+)(?:-\d+)?")
"""The `id` inside of an answer is made of the request id; a streaming client may have nothing else at hand."""


class Given(BaseModel):
    """The body of the request."""

    model_config = ConfigDict(extra="forbid")

    request_id: StrictStr
    score: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)]
    correction: StrictStr | Message | None = None
    source: Annotated[StrictStr, Field(min_length=1, max_length=64)] = "user"
    comment: Annotated[StrictStr, Field(max_length=4096)] | None = None

    @field_validator("correction")
    @classmethod
    def _assistant(cls, value: str | Message | None) -> Message | None:
        """A string is the text of the assistant's message; a message must be the assistant's and say something."""
        if value is None or isinstance(value, str):
            return None if value is None else {"role": "assistant", "content": value}
        message = {"role": "assistant", **value}
        if message["role"] != "assistant":
            raise ValueError("must be a message of the assistant")
        calls = message.get("tool_calls") or []
        if not isinstance(message.get("content"), str) and not calls:
            raise ValueError("must have a string `content` or `tool_calls`")
        if not isinstance(calls, list) or not all(map(_is_call, calls)):
            raise ValueError("`tool_calls` must be a list of {type, function: {name, arguments as a JSON string}}")
        return message


@dataclass(frozen=True)
class TakeFeedback:
    """Checks and keeps one feedback."""

    keeper: Keeper
    mint_key: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        try:
            given = Given.model_validate(call.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = str(first["loc"][0]) if first["loc"] else None
            raise Refusal(400, f"`{where}`: {first['msg']}", code="invalid_value", param=where) from None
        match = _ANSWER_ID.fullmatch(given.request_id)
        if not match or not ids.minted(self.mint_key, match[1]):
            message = "this cluster never gave out that request id; send the `x-request-id` of an answer"
            raise Refusal(404, message, code="request_not_found", param="request_id")
        values = given.model_dump() | {"request_id": match[1]}
        feedback = Feedback(time=time.time(), principal=call.principal.id, **values)
        try:
            await self.keeper.keep(feedback)
        except LogUnavailable:
            raise unavailable() from None
        telemetry.rated(feedback.score)
        await send_json(
            send, 200, {"object": "feedback", **feedback.model_dump(exclude={"kind", "schema_version", "principal"})}
        )


def _is_call(value: Any) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
    )
