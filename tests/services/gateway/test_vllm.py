"""What the gateway relies on in vLLM and xgrammar, asked of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from services.gateway import automaton
from services.gateway.engine import salt
from services.gateway.grammars import as_automaton
from services.gateway.parameters import CHAT, COMPLETIONS, RESPONSES
from tests.services.gateway.conftest import Bench

pytestmark = pytest.mark.ray

ASK = """
import json, os, sys, time, typing
os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
import xgrammar
from vllm import tasks
from vllm.config import ProfilerConfig
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser

def every(kind):
    return [kind] if isinstance(kind, str) else [name for part in typing.get_args(kind) for name in every(part)]

given = json.loads(sys.argv[1])
args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
args.enable_fault_tolerance = True
args.profiler_config = ProfilerConfig(profiler="torch", torch_profiler_dir=given["folder"])
app = build_app(args, supported_tasks=tuple(every(tasks.SupportedTask)))

vocabulary = xgrammar.TokenizerInfo([chr(n) for n in range(1, 256)] + ["</s>"], stop_token_ids=[255])
compiler = xgrammar.GrammarCompiler(vocabulary)
def accepts(grammar, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(grammar))
    return matcher.accept_string(text) and matcher.is_completed()
def slowest_ms(grammar, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(grammar))
    mask, worst = xgrammar.allocate_token_bitmask(1, vocabulary.vocab_size), 0.0
    for character in text:
        begun = time.process_time()
        matcher.fill_next_token_bitmask(mask)
        assert matcher.accept_string(character)
        worst = max(worst, time.process_time() - begun)
    return worst * 1000

def compiled(expression, form):
    try:
        if form == "json":
            compiler.compile_json_schema(json.dumps({"type": "string", "pattern": expression}))
        else:
            compiler.compile_grammar(form)
        return True
    except RuntimeError:
        return False

message = {"model": "m", "cache_salt": given["salt"], "priority": 7}
requests = [
    ChatCompletionRequest(messages=[{"role": "user", "content": "hi"}], **message),
    CompletionRequest(prompt="hi", **message),
    ResponsesRequest(input="hi", **message),
]
print(json.dumps({
    "routes": [[route.path, sorted(getattr(route, "methods", None) or ["GET"])] for route in app.routes],
    "taken": [[request.cache_salt, request.priority] for request in requests],
    "compiled": [[compiled(expression, "json"), compiled(expression, form)] for expression, form in given["taken"]],
    "accepted": [accepts(grammar, text) for grammar, text in given["texts"]],
    # What is slow is slow each time; what the machine does beside it is not.
    "slowest_ms": [min(slowest_ms(grammar, text) for _ in range(3)) for grammar, text in given["slow"]],
}))
"""


def grammar(expression: str) -> str:
    return as_automaton({"regex": expression})["grammar"]


TEXTS = [
    (r"\d{3}-[a-f]+", "123-beef", True),
    (r"\d{3}-[a-f]+", "12-beef", False),
    (r'["\\]+x', '"\\"x', True),
    (r'["\\]+x', "ax", False),
    ("^a.b$", "a b", True),
    ("^a.b$", "ab", False),
    ("a\tb\\n", "a\tb\n", True),
    ("(yes|no)?", "", True),
]


TAKEN = [
    "", "()", "(|a)", "a{0}", "a**", "a*?", "a++", "a{2}+", "}", "[a&&b]", "(?=a)b", "(?!a)b", "é😀", "\x01\n", "^a$",
    "$a^", r"[\d-a]", r"[^\n\]\\]", r"[\b]", r"\u0041\u{41}\x41\cA\0", r"\/\-\.", r"\w\d\s\W\D\S",
    "(?<n>a)(?P<m>b)", "[a-z]{0,128}", "([a-z]{0,20}b){0,9}",
]  # fmt: skip


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    asked = {
        "folder": str(tmp_path_factory.mktemp("profiles")),
        "salt": salt(b"key", "app"),
        "taken": [(expression, grammar(expression)) for expression in TAKEN],
        "texts": [(grammar(expression), text) for expression, text, _ in TEXTS],
        "slow": [(grammar(expression), "a" * 600) for expression in ("(a+)+b", "((a*)*)*b", r"(\w+\s?)*b")],
    }
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(asked)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


async def test_of_all_routes_of_vllms_application_only_the_allowed_are_reached(
    gateway: Bench, vllm: dict[str, Any]
) -> None:
    """In its development mode, with every task, which has the most of them."""
    paths = {path for path, _ in vllm["routes"]}
    assert len(paths) > 60
    assert paths >= {
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/pause", "/resume", "/sleep", "/wake_up",
        "/update_weights", "/collective_rpc", "/invocations", "/tokenize", "/metrics", "/docs", "/start_profile",
        "/fault_tolerance/apply",
    }  # fmt: skip
    allowed = {CHAT, COMPLETIONS, RESPONSES, "/v1/models"}
    for path, methods in vllm["routes"]:
        concrete = path.replace("{", "").replace("}", "")
        for variant in dict.fromkeys((concrete, f"{concrete}/", f"/{concrete}", concrete.upper())):
            if variant in allowed or variant == "/v1/models/":
                continue
            for method in methods:
                answer = await gateway.client.request(method, f"http://gateway{variant}", json={})
                assert answer.status_code == 404, (method, variant)
                assert method == "HEAD" or answer.json()["error"]["code"] == "unknown_url"
    assert gateway.engine.asked == []


def test_all_three_endpoints_take_our_salt_and_a_priority(vllm: dict[str, Any]) -> None:
    assert vllm["taken"] == [[salt(b"key", "app"), 7]] * 3


def test_an_expression_means_the_same_as_an_automaton(vllm: dict[str, Any]) -> None:
    assert vllm["accepted"] == [expected for _, _, expected in TEXTS]


def test_expressions_that_the_gateway_takes_can_be_compiled(vllm: dict[str, Any]) -> None:
    for expression, compiled in zip(TAKEN, vllm["compiled"], strict=True):
        assert automaton.steps(expression, 2000, alone=True) <= 2000
        assert compiled == [True, True], expression


def test_a_token_costs_as_little_after_many_others(vllm: dict[str, Any]) -> None:
    assert max(vllm["slowest_ms"]) < 15, "run as a grammar these take 30 ms to 100 ms by then"
