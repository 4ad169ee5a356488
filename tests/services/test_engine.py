"""What we ask of vLLM differently."""

from __future__ import annotations

import json

import pytest

from tests.services.tiny import make_model

pytestmark = pytest.mark.ray  # importing vLLM takes as long as the fast tests may

SCHEMA = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ('{"on": true}', True),
        ('{"on":true}', True),
        ('{"on"   : true}', False),
        ('{"on":\n\ttrue}', False),
        ('{"on": "true"}', False),
    ],
)
def test_constrained_tool_calls_cannot_run_into_spaces(
    tmp_path_factory: pytest.TempPathFactory, arguments: str, accepted: bool
) -> None:
    import xgrammar
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    from services.engine import use_tight_json

    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("model"), seed=1))
    for _ in range(2):  # a second application in the same process must not wrap it again
        use_tight_json("hermes")
    function = {"name": "set_light", "parameters": SCHEMA, "strict": True}
    request = ChatCompletionRequest.model_validate(
        {
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
        }
    )
    parser = ToolParserManager.get_tool_parser("hermes")(tokenizer, request.tools)
    assert [kind.__name__ for kind in type(parser).__mro__].count("TightJson") == 1
    tag = parser.get_structural_tag(request)
    assert tag is not None
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer))
    matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(json.dumps(tag.model_dump())))
    call = f'<tool_call>\n{{"name": "set_light", "arguments": {arguments}}}\n</tool_call>'
    assert matcher.accept_string(call) is accepted
