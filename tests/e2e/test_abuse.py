"""What must not get in, through the public port: the expected 4xx each, and the engine's process goes on."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HI = [{"role": "user", "content": "hi"}]
BOMB = "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    root, key = cluster.base_url.removesuffix("/v1"), {"authorization": f"Bearer {cluster.api_key}"}
    with httpx.Client(base_url=root, headers=key, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def answers_go_on(api: httpx.Client) -> Iterator[None]:
    """After every test."""
    yield
    answer = api.post(CHAT, json={"model": "assistant", "messages": HI, "max_tokens": 4})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module", autouse=True)
def one_engine(cluster: Cluster) -> Iterator[None]:
    """It is the same process in the end."""
    before = [(process.pid, process.create_time()) for process in cluster.processes("EngineCore")]
    yield
    assert [(process.pid, process.create_time()) for process in cluster.processes("EngineCore")] == before
    assert len(before) == 1


def told(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer in OpenAI's format."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"], answer.text
    return error


def raw(cluster: Cluster, request: bytes, half_close: bool = False) -> bytes:
    """What comes back for these bytes, as they are."""
    with socket.create_connection(("127.0.0.1", cluster.settings.http_port), timeout=30) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
            if b"\r\n\r\n" in received and not half_close:
                break
        return received


def status_of(cluster: Cluster, method: str, target: str, **headers: str) -> int:
    """Of a request whose target no client has tidied up."""
    connection = http.client.HTTPConnection("127.0.0.1", cluster.settings.http_port, timeout=30)
    connection.putrequest(method, target, skip_host="host" in headers)
    for name, value in {"authorization": f"Bearer {cluster.api_key}", **headers}.items():
        connection.putheader(name, value)
    if method == "POST":
        connection.putheader("content-length", "2")
    connection.endheaders(b"{}" if method == "POST" else None)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


HIDDEN = """
    /v1/load_lora_adapter /v1/unload_lora_adapter /pause /resume /sleep /wake_up /update_weights /collective_rpc
    /invocations /tokenize /detokenize /metrics /docs /openapi.json /health /version /load /ping /reset_prefix_cache
    /start_profile /inference/v1/generate /v1/embeddings /v1/messages /v1/responses/resp_1 /adapters/x
    /v1/chat/completions/render /v1/chat/completions/batch / /v1 /v1/ /admin /serve /api/jobs /bases/seed/tokenize
    //v1/models /v1//models /v1/chat/completions/ /V1/MODELS /v1/models%00 /v1/chat/completions;x /ADMIN/rollout
    /v1/../tokenize /v1/%2e%2e/tokenize /%2e%2e/tokenize /..%2ftokenize /./tokenize /admin/../tokenize
    /v1/chat/../../tokenize /v1/chat%2fcompletions/x /tokenize?x=/v1/models /v1/healthz
"""


def test_hidden_and_crooked_paths_are_404(cluster: Cluster) -> None:
    seen = {(method, path): status_of(cluster, method, path) for method in ("GET", "POST") for path in HIDDEN.split()}
    assert {asked: status for asked, status in seen.items() if status != 404} == {}
    for path in ("/v1/models/..", "/v1/models/../../tokenize", "/v1/%6d%6fdels/%2e%2e/metrics"):
        assert status_of(cluster, "GET", path) == 404, "a model of that name is not known"
        assert status_of(cluster, "POST", path) == 405


@pytest.mark.parametrize("host", ["evil.example", "169.254.169.254", "localhost:1", "[::1]", "a" * 4000, "", "x/../y"])
def test_no_host_opens_a_hidden_path(cluster: Cluster, host: str) -> None:
    for path in ("/tokenize", "/metrics", "http://localhost/tokenize"):
        assert status_of(cluster, "GET", path, host=host) in (400, 404)


NAMES = """../../x assistant@../1 assistant@1/../../x /etc/passwd .. assistant@ assistant@-1 assistant@1e9 s3://b/k
    assistant@999999999 assistant@candidate@1 seed@../../secrets file:///etc/passwd assistant\x00 %2e%2e/x"""


@pytest.mark.parametrize("model", NAMES.split())
def test_names_that_are_paths_are_unknown(api: httpx.Client, model: str) -> None:
    for path, body in ((CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "hi"}), (RESPONSES, {"input": "hi"})):
        answer = api.post(path, json={"model": model, **body})
        assert (answer.status_code, told(answer)["code"]) == (404, "model_not_found")


def saying(content: bytes, more: bytes = b"") -> bytes:
    return b'{"model": "assistant", "messages": [{"role": "user", "content": ' + content + b"}]" + more + b"}"


BODIES = {
    "empty": (b"", 400),
    "cut off": (b"{", 400),
    "a list": (b"[]", 400),
    "a string": (b'"hi"', 400),
    "not UTF-8": (b"\xff\xfe\x00", 400),
    "not UTF-8 inside": (saying(b'"\xc3\x28"'), 400),
    "UTF-16": (saying(b'"hi"').decode().encode("utf-16"), 400),
    "half a surrogate pair": (saying(b'"\\ud83d"'), 400),
    "NaN": (saying(b'"hi"', b', "temperature": NaN'), 400),
    "infinity": (saying(b'"hi"', b', "top_p": 1e999'), 400),
    "deep lists": (saying(b"[" * 100_000 + b"]" * 100_000), 400),
    "deep objects": (saying(b'{"a":' * 80 + b"1" + b"}" * 80), 400),
    "two documents": (saying(b'"hi"') + b"{}", 400),
    "5 MiB": (saying(b'"' + b"x" * (5 << 20) + b'"'), 413),
    "2 MiB of words": (saying(b'"' + b"x " * (1 << 20) + b'"'), 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_malformed_and_oversized_bodies(api: httpx.Client, name: str) -> None:
    content, status = BODIES[name]
    answer = api.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status and told(answer)["type"] == "invalid_request_error", answer.text[:500]


def test_an_endless_body_is_cut_off(cluster: Cluster, api: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    answer = api.post(CHAT, content=pieces())
    assert answer.status_code == 413 and told(answer)["code"] == "request_too_large"


def test_a_truncated_body_is_no_request(cluster: Cluster) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {cluster.api_key}\r\ncontent-length: 1000\r\n\r\n"
    answer = raw(cluster, head.encode() + b'{"model": "assistant"', half_close=True)
    assert answer == b"" or answer.split()[1] == b"400"


def form(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def picture(address: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]}


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("chat_template", {"chat_template": BOMB}),
    ("chat_template_kwargs", {"chat_template_kwargs": {"chat_template": BOMB}}),
    ("n", {"n": 16384}),
    ("n", {"n": 10**30}),
    ("mm_processor_kwargs", {"mm_processor_kwargs": {"trust_remote_code": True}}),
    ("media_io_kwargs", {"media_io_kwargs": {"video": {"num_frames": 10**9}}}),
    ("logits_processors", {"logits_processors": ["os.system"]}),
    ("messages", picture("http://127.0.0.1:1/x.png")),
    ("messages", picture("file:///etc/passwd")),
    ("tools", {"tools": [{"type": "mcp", "server_url": "http://127.0.0.1:1"}]}),
    ("stop", {"stop": ["x"] * 1000}),
    ("structured_outputs.grammar", {"structured_outputs": {"grammar": 'root ::= root root | "a"'}}),
    ("structured_outputs.regex", {"structured_outputs": {"regex": "((((a{99}){99}){99}){99}){99}"}}),
    ("structured_outputs.regex", {"structured_outputs": {"regex": "(((("}}),
    ("structured_outputs.json", {"structured_outputs": {"json": "{"}}),
    ("response_format", form({"pattern": "([a-z]{0,30}){0,30}"})),
    ("response_format", form({"enum": ["x" * 100_000]})),
    ("response_format", form({"$ref": "http://127.0.0.1:1/x"})),
    ("response_format", form({"$ref": "#"})),
    ("response_format", {"response_format": {"type": "structural_tag", "format": {"type": "grammar", "grammar": "x"}}}),
]


@pytest.mark.parametrize(("param", "more"), REFUSED, ids=lambda given: json.dumps(given)[:60])
def test_what_is_not_for_callers_is_refused_by_name(api: httpx.Client, param: str, more: dict[str, Any]) -> None:
    answer = api.post(CHAT, json={"model": "assistant", "messages": HI, "max_tokens": 4, **more})
    assert (answer.status_code, told(answer)["param"]) == (400, param)


NUMBERS: list[dict[str, Any]] = [
    {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"top_p": 2}, {"top_k": -5}, {"min_p": 7},
    {"seed": 2**80}, {"presence_penalty": 100}, {"frequency_penalty": -100}, {"repetition_penalty": 0},
    {"repetition_penalty": -1}, {"logprobs": True, "top_logprobs": 10**6}, {"logprobs": True, "top_logprobs": -1},
    {"min_tokens": 10**9}, {"min_tokens": -1}, {"logit_bias": {"999999": 1}}, {"logit_bias": {"x": 1}},
    {"logit_bias": {"-1": 1}}, {"stop_token_ids": [10**18]}, {"stop_token_ids": "x"}, {"max_tokens": 10**12},
    {"max_tokens": 0}, {"messages": [{"role": "user"}, 7]}, {"messages": [{"role": 7, "content": "hi"}]},
    {"messages": [{}]}, {"tools": [{"type": "function", "function": {"name": 7}}], "tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, {"response_format": {"type": "json_schema"}},
    {"structured_outputs": {}}, {"structured_outputs": {"json": {}, "regex": "a"}},
    {"structured_outputs": {"choice": []}}, {"structured_outputs": {"choice": [7]}},
    {"structured_outputs": {"json_object": False}},
]  # fmt: skip


@pytest.mark.parametrize("more", NUMBERS, ids=lambda more: json.dumps(more)[:60])
def test_values_out_of_range_are_bad_requests(api: httpx.Client, more: dict[str, Any]) -> None:
    answer = api.post(CHAT, json={"model": "assistant", "messages": HI, "max_tokens": 4, **more})
    assert answer.status_code == 400 and told(answer)["type"] == "invalid_request_error", answer.text


ODD: list[Any] = [
    {"$ref": "#/nowhere"}, {"enum": []}, {"not": {}}, {"anyOf": []}, {"properties": []}, {"anyOf": [{"$ref": "#"}, {}]},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "nonsense"}, {"type": ["string", 7]}, {"type": []}, {"type": "object", "properties": {"a": 7}},
    {"type": "string", "minLength": 9, "maxLength": 2}, {"type": "string", "minLength": 10**30},
    {"type": "string", "maxLength": -5}, {"type": "array", "items": {"type": "integer"}, "minItems": 10**30},
    {"type": "integer", "minimum": 9, "maximum": 2}, {"type": "integer", "minimum": -(10**400)},
    {"type": "array", "uniqueItems": True}, {"allOf": [{"type": "string"}, {"enum": [1]}]}, {"enum": [None, {}]},
    {"type": "string", "pattern": "(?=a)b"}, {"type": "string", "pattern": "(a)\\1"}, {"const": "\x00\x1b"},
    {"type": "string", "pattern": "\\p{L}+"}, {"type": "string", "pattern": "[z-a]"},
    {"type": "object", "patternProperties": {"^a": {"type": "string"}}}, {"type": "string", "format": "nonsense"},
]  # fmt: skip


@pytest.mark.parametrize("schema", ODD, ids=lambda schema: json.dumps(schema)[:60])
def test_odd_schemas_are_answered_or_are_bad_requests(api: httpx.Client, schema: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    for more in (form(schema), {"tools": [tool], "tool_choice": "required"}):
        answer = api.post(CHAT, json={"model": "assistant", "messages": HI, "max_tokens": 8, **more})
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            told(answer)


def test_costly_words_are_words(api: httpx.Client) -> None:
    """Templates in what somebody says are text."""
    said = [{"role": "user", "content": BOMB + "{{ self.__class__ }}"}]
    assert api.post(CHAT, json={"model": "assistant", "messages": said, "max_tokens": 4}).status_code == 200


def test_the_costliest_grammar_that_is_taken_is_compiled_in_seconds(api: httpx.Client) -> None:
    email = {"type": "string", "pattern": r"^[\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63}){1,8}$"}
    answer = api.post(CHAT, json={"model": "assistant", "messages": HI, "max_tokens": 8, **form(email)})
    assert answer.status_code == 200 and answer.elapsed.total_seconds() < 30


def test_an_expression_constrains_the_answer(api: httpx.Client) -> None:
    body = {"model": "assistant", "messages": HI, "max_tokens": 16, "structured_outputs": {"regex": '[0-9]{3}-"[ab]+"'}}
    answer = api.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    assert said[:3].isdigit() and said[3:5] == '-"'


def test_the_tokens_of_a_prompt_have_probabilities_and_the_engine_lives_on(api: httpx.Client) -> None:
    body = {"model": "assistant", "prompt": "a table for two in Rome", "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = api.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    first, *others = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
    assert first is None and others and all(each <= 0 for each in others)
