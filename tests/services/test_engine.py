"""What we ask of vLLM differently."""

from __future__ import annotations

import json

import pytest

from tests.services.tiny import make_model

pytestmark = pytest.mark.ray  # importing vLLM takes as long as the fast tests may

SCHEMA = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}


@pytest.mark.parametrize(
    ("arguments", "strict", "accepted"),
    [
        ('{"on": true}', True, True),
        ('{"on":true}', True, True),
        ('{"on"   : true}', True, False),
        ('{"on":\n\ttrue}', True, False),
        ('{"on": "true"}', True, False),
        ('{"on": "true"}', False, True),
        ('"on', False, False),
        ("[", False, False),
    ],
)
def test_constrained_tool_calls_have_objects_and_cannot_run_into_spaces(
    tmp_path_factory: pytest.TempPathFactory, arguments: str, strict: bool, accepted: bool
) -> None:
    import xgrammar
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    from services.engine import use_tight_json

    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("model"), seed=1))
    for _ in range(2):  # a second application in the same process must not wrap it again
        use_tight_json("hermes")
    function = {"name": "set_light", "parameters": SCHEMA, "strict": strict}
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
    whole = f'<tool_call>\n{{"name": "set_light", "arguments": {arguments}'
    call = f"{whole}}}\n</tool_call>" if arguments.endswith("}") else whole
    assert matcher.accept_string(call) is accepted
