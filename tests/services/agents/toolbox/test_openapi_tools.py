"""An API's document makes its operations tools; a call goes where the document says, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from services.agents.toolbox.openapi_tools import OpenApiSettings, openapi_tools
from services.agents.tools import Tool, ToolError
from tests.services.agents.asking import call

DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Shop", "version": "1"},
    "servers": [{"url": "https://{region}.shop.example/v1/", "variables": {"region": {"default": "eu"}}}],
    "paths": {
        "/goods": {
            "get": {
                "operationId": "findGoods",
                "summary": "Find goods.",
                "description": "By words.",
                "parameters": [
                    {"name": "q", "in": "query", "schema": {"type": "string"}, "description": "Words."},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array"}},
                    {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
                    {"name": "raw", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
                    {"name": "sold", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                    {"name": "X-Key", "in": "header", "required": True, "schema": {"type": "string"}},
                ],
            },
            "post": {
                "operationId": "addGood",
                "requestBody": {"$ref": "#/components/requestBodies/Good"},
            },
        },
        "/goods/{id}/photo-{size}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {
                "operationId": "photo",
                "parameters": [{"name": "size", "in": "path", "required": True, "schema": {"type": "string"}}],
            },
        },
        "/goods/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "put": {"requestBody": {"content": {"application/json; charset=utf-8": {"schema": {"type": "object"}}}}},
            "delete": {"operationId": "dropGood", "parameters": [{"name": "id", "in": "query", "schema": {}}]},
        },
        "/upload": {"post": {"operationId": "upload", "requestBody": {"content": {"image/png": {}}}}},
        "/me": {"get": {"operationId": "me", "parameters": [{"name": "s", "in": "cookie", "required": True}]}},
    },
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}},
        "requestBodies": {
            "Good": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Good"}}},
            }
        },
        "schemas": {
            "Good": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "example": "tea"},
                    "example": {"type": "string", "nullable": True},
                    "price": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Good"}},
                },
            }
        },
    },
}

Handler = Callable[[httpx.Request], httpx.Response]


class Shop:
    """The API: notes what it is asked."""

    def __init__(self, answer: Handler = lambda _: httpx.Response(200, json={"ok": True})) -> None:
        self.asked: list[httpx.Request] = []
        self._answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._answer(request)

    @property
    def last(self) -> httpx.Request:
        return self.asked[-1]


async def tools(folder: Path, shop: Handler, document: Any = DOCUMENT, **settings: Any) -> dict[str, Tool]:
    (folder / "shop.yaml").write_text(yaml.safe_dump(document))
    given = {"name": "shop", "document": str(folder / "shop.yaml")} | settings
    made = await openapi_tools(OpenApiSettings.model_validate(given), httpx.MockTransport(shop))
    return {each.name: each for each in made}


async def test_operations_are_tools_with_schemas_that_hold_together(tmp_path: Path) -> None:
    made = await tools(tmp_path, Shop())
    assert set(made) == {"findGoods", "addGood", "photo", "put_goods_id", "dropGood"}
    assert {each.owner for each in made.values()} == {"openapi:shop"}
    assert made["findGoods"].description == "Find goods.\n\nBy words."
    assert made["put_goods_id"].description == "PUT /goods/{id}"
    assert made["findGoods"].schema["properties"]["q"] == {"type": "string", "description": "Words."}
    for each in made.values():
        jsonschema.Draft202012Validator.check_schema(each.schema)
    check = jsonschema.Draft202012Validator(made["addGood"].schema)
    good = {"name": "set", "example": None, "parts": [{"name": "tea", "price": 1, "parts": []}]}
    assert check.is_valid({"body": good})
    assert not check.is_valid({"body": good | {"price": 0}})
    assert not check.is_valid({"body": {"name": "set", "parts": [{}]}})
    assert not check.is_valid({})


async def test_what_cannot_be_called_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await tools(tmp_path, Shop())
    assert "POST /upload is no tool: its body is no JSON" in caplog.text
    assert "GET /me is no tool: it needs the cookie s" in caplog.text


async def test_arguments_go_where_the_document_says(tmp_path: Path) -> None:
    shop = Shop()
    made = await tools(tmp_path, shop)
    said = await made["findGoods"].run(
        call(
            q="green tea",
            tag=["a", "b"],
            ids=[1, 2],
            filter={"max": 3},
            raw={"a": [1]},
            sold=False,
            **{"X-Trace": "t1", "X-Key": "k"},
        )
    )
    url = shop.last.url
    assert (url.host, url.path) == ("eu.shop.example", "/v1/goods")
    assert url.params.multi_items() == [
        *(("q", "green tea"), ("tag", "a"), ("tag", "b"), ("ids", "1,2"), ("filter[max]", "3")),
        *(("raw", '{"a": [1]}'), ("sold", "false")),
    ]
    assert shop.last.headers["x-trace"] == "t1"
    assert said.structured == {"ok": True} and not said.failed
    await made["addGood"].run(call(body={"name": "tea"}))
    assert json.loads(shop.last.content) == {"name": "tea"}
    assert shop.last.headers["content-type"] == "application/json"
    await made["dropGood"].run(call(path_id="a/b?c#d", query_id=7))
    assert shop.last.url.raw_path == b"/v1/goods/a%2Fb%3Fc%23d?id=7"


@pytest.mark.parametrize("value", [".", "..", ""])
async def test_path_leads_to_no_other_operation(tmp_path: Path, value: str) -> None:
    shop = Shop()
    made = await tools(tmp_path, shop)
    with pytest.raises(ToolError):
        await made["dropGood"].run(call(path_id=value))
    await made["photo"].run(call(id="{size}", size=".."))
    assert [request.url.raw_path for request in shop.asked] == [b"/v1/goods/%7Bsize%7D/photo-.."]


async def test_header_field_with_a_line_break_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(DOCUMENT))
    sent = list[bytes]()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = OpenApiSettings(name="shop", document=str(tmp_path / "shop.json"), base_url=url)
        made = {each.name: each for each in await openapi_tools(settings)}
        for value in ("a\r\nx-admin: 1", "für"):
            with pytest.raises(ToolError, match="shop cannot be reached"):
                await made["findGoods"].run(call(**{"X-Trace": value}))
    assert not any(sent)


async def test_what_may_be_repeated_is_what_http_says_or_the_operator(tmp_path: Path) -> None:
    shop = Shop()
    made = await tools(tmp_path, shop)
    assert {name for name, each in made.items() if each.idempotent} == {
        "findGoods",
        "photo",
        "put_goods_id",
        "dropGood",
    }
    await made["addGood"].run(call(None, "op-7", body={"name": "tea"}))
    assert shop.last.headers["idempotency-key"] == "op-7"
    await made["findGoods"].run(call(None, "op-8"))
    assert "idempotency-key" not in shop.last.headers
    made = await tools(tmp_path, shop, idempotent={"addGood": True, "dropGood": False})
    assert made["addGood"].idempotent and not made["dropGood"].idempotent


async def test_secret_is_sent_and_shown_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("photo-s"):
            raise httpx.ConnectError(f"refused with {request.headers['x-key']}")
        return httpx.Response(400 if request.method == "POST" else 200, json=dict(request.headers))

    monkeypatch.setenv("SHOP_SECRET", "s3cr3t-value")
    shop = Shop(echo)
    with caplog.at_level(logging.DEBUG):
        credentials = {"variable": "SHOP_SECRET", "header": "X-Key", "prefix": ""}
        made = await tools(tmp_path, shop, credentials=credentials)
        said = [await made["findGoods"].run(call(q="a")), await made["addGood"].run(call(body={"name": "a"}))]
        with pytest.raises(ToolError, match=r"refused with \[secret\]"):
            await made["photo"].run(call(id="a", size="s"))
    assert shop.asked[0].headers["x-key"] == "s3cr3t-value"
    assert said[0].structured["x-key"] == "[secret]" and said[1].failed
    shown = [repr(each) for each in said] + [repr(each) + str(each.schema) for each in made.values()] + [caplog.text]
    assert not any("s3cr3t-value" in each for each in shown)
    # Nor does a model set the field.
    assert "X-Key" not in made["findGoods"].schema["properties"]


async def test_secret_that_is_not_there_is_asked_for_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the API shop: .* set NO_SUCH_SECRET"):
        await tools(tmp_path, Shop(), credentials={"variable": "NO_SUCH_SECRET"})


async def test_failure_and_redirect_are_told_to_the_model(tmp_path: Path) -> None:
    answers = iter(
        [
            httpx.Response(404, json={"error": "no such good"}),
            httpx.Response(302, headers={"location": "http://169.254.169.254/"}),
            httpx.Response(204),
        ]
    )
    shop = Shop(lambda _: next(answers))
    made = await tools(tmp_path, shop)
    gone, moved, empty = [await made["findGoods"].run(call()) for _ in range(3)]
    assert gone.failed and gone.content == 'HTTP 404\n{"error":"no such good"}'
    assert moved.failed and moved.content == "HTTP 302"
    assert not empty.failed and empty.content == "HTTP 204"
    assert len(shop.asked) == 3


async def test_long_answer_is_cut(tmp_path: Path) -> None:
    made = await tools(tmp_path, Shop(lambda _: httpx.Response(200, json=["x" * 5000])), most_bytes=100)
    said = await made["findGoods"].run(call())
    assert len(said.content) < 200 and "cut here" in said.content and said.structured is None


async def test_only_what_is_chosen_and_under_a_name_of_ones_own(tmp_path: Path) -> None:
    made = await tools(tmp_path, Shop(), operations=["findGoods", "put/goods/{id}"], prefix="eu_")
    assert set(made) == {"eu_findGoods", "eu_put_goods_id"}


async def test_document_may_come_from_its_address_and_then_keeps_our_secret_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "s3cr3t-value")
    document = DOCUMENT | {"servers": [{"url": "/v2"}]}
    seen = list[httpx.Request]()

    def site(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=document if request.url.path == "/openapi.json" else {})

    async def load(**more: Any) -> list[Tool]:
        given = {"name": "shop", "document": "https://api.example/openapi.json"} | more
        settings = OpenApiSettings.model_validate(given | {"credentials": {"variable": "SHOP_SECRET"}})
        return await openapi_tools(settings, httpx.MockTransport(site))

    find = (await load())[0]
    assert "authorization" not in seen[0].headers
    await find.run(call())
    assert str(seen[-1].url) == "https://api.example/v2/goods"
    assert seen[-1].headers["authorization"] == "Bearer s3cr3t-value"
    document["servers"] = [{"url": "https://evil.example"}]
    with pytest.raises(ValueError, match=r"sends our credentials to https://evil\.example"):
        await load()
    await (await load(base_url="https://other.example/"))[0].run(call())
    assert str(seen[-1].url) == "https://other.example/goods"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"openapi": "2.0"}, "version 3 is needed, and this one says 2.0"),
        ({"servers": [{"url": "/v1"}]}, "give base_url"),
        ({"paths": {"/a": {"$ref": "other.yaml#/a"}}}, "outside of the document"),
        (
            {"paths": {"/a": {"get": {"parameters": [{"$ref": "#/components/parameters/No"}]}}}},
            "is not in the document",
        ),
    ],
)
async def test_document_that_does_not_fit_says_why(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"the API shop: .*{complaint}"):
        await tools(tmp_path, Shop(), DOCUMENT | change)


async def test_settings_that_do_not_fit_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no operation buy .*; there are: addGood, dropGood"):
        await tools(tmp_path, Shop(), operations=["buy"])
    with pytest.raises(ValueError, match="give an absolute path or an address"):
        await openapi_tools(OpenApiSettings(name="shop", document="shop.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="neither JSON nor YAML"):
        await openapi_tools(OpenApiSettings(name="shop", document=str(tmp_path / "broken.yaml")))
