"""What we ask of vLLM differently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.services.tiny import make_model

pytestmark = pytest.mark.ray  # importing vLLM takes as long as the fast tests may

LIGHT = {
    "type": "object",
    "properties": {"room": {"type": "string"}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
}
CALLS = [
    # arguments, whether a strict tool may get them, whether another may
    ('{"room": "attic", "on": true}', True, True),
    ('{"room":"attic","on":true}', True, True),
    ('{"room"   : "attic", "on": true}', False, False),
    ('{"room":\n\t"attic", "on": true}', False, False),
    ('{"room": "attic", "on": "true"}', False, True),
    ('{"on": true, "room": "attic"}', False, True),
    ('{"room": "attic"}', False, True),
    ("{}", False, True),
    ('{"room": 5', False, False),
    ('{"off', False, False),
    ('{", "', False, False),
    ('{"on": 1, "on": 2, "on": 3', False, False),
    ('"on', False, False),
    ("[", False, False),
]
ANYTHING = '{"room": {"floor": [1]}, "off": 5}'


def accepts(tokenizer: Any, arguments: str, choice: Any = "required", **function: Any) -> bool:
    """Whether the grammar of a request that forces a call lets a call begin so, or be so if `arguments` end."""
    import xgrammar
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    given = {"type": "function", "function": {"name": "set_light", **function}}
    request = ChatCompletionRequest.model_validate(
        {"messages": [{"role": "user", "content": "hi"}], "tools": [given], "tool_choice": choice}
    )
    parser = ToolParserManager.get_tool_parser("hermes")(tokenizer, request.tools)
    tag = parser.get_structural_tag(request)
    assert tag is not None
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer))
    matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(json.dumps(tag.model_dump())))
    whole = f'<tool_call>\n{{"name": "set_light", "arguments": {arguments}'
    return bool(matcher.accept_string(f"{whole}}}\n</tool_call>" if arguments.endswith("}") else whole))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer
    from vllm.tool_parsers import ToolParserManager

    from services.engine import hold_arguments

    for _ in range(2):  # a second application in the same process must not wrap it again
        hold_arguments("hermes")
    family = ToolParserManager.get_tool_parser("hermes").__mro__
    assert [kind.__name__ for kind in family].count("HoldsArguments") == 1
    return AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("model"), seed=1))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("arguments", "if_strict", "else_"), CALLS)
def test_forced_call_has_the_parameters_of_its_tool_and_cannot_run_into_spaces(
    tokenizer: Any, arguments: str, if_strict: bool, else_: bool, strict: bool
) -> None:
    assert accepts(tokenizer, arguments, parameters=LIGHT, strict=strict) is (if_strict if strict else else_)


@pytest.mark.parametrize("strict", [True, False])
def test_string_ends_where_its_tool_says(tokenizer: Any, strict: bool) -> None:
    short = {"type": "object", "properties": {"room": {"type": "string", "maxLength": 5}}}
    assert accepts(tokenizer, '{"room": "attic"}', parameters=short, strict=strict)
    assert not accepts(tokenizer, '{"room": "attics', parameters=short, strict=strict)


@pytest.mark.parametrize("most", [-1, 2.5, "5", True, None, 10**30])
def test_bound_that_is_none_stands_in_no_ones_way(tokenizer: Any, most: Any) -> None:
    odd = {"type": "object", "properties": {"room": {"type": "string", "maxLength": most}}}
    assert accepts(tokenizer, '{"room": "the attic"}', parameters=odd)


def test_tool_that_a_request_names_is_held_too(tokenizer: Any) -> None:
    choice = {"type": "function", "function": {"name": "set_light"}}
    assert accepts(tokenizer, '{"room": "attic", "on": true}', choice, parameters=LIGHT)
    assert not accepts(tokenizer, '{"off', choice, parameters=LIGHT)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object"},
        LIGHT | {"additionalProperties": True},
        LIGHT | {"patternProperties": {"^o": {}}},
        LIGHT | {"anyOf": [{"required": ["on"]}, {"required": ["off"]}]},
    ],
)
def test_tool_that_takes_other_parameters_too_gets_any_object(tokenizer: Any, parameters: dict[str, Any]) -> None:
    assert accepts(tokenizer, ANYTHING, parameters=parameters)
    assert not accepts(tokenizer, "[", parameters=parameters)


def test_schema_that_the_grammar_cannot_express_stands_in_no_ones_way(tokenizer: Any) -> None:
    odd = {"type": "object", "properties": {"room": {"type": "string", "pattern": "(?<=x)y"}, "on": {"type": "date"}}}
    assert accepts(tokenizer, '{"room": "attic", "on": true}', parameters=odd)
