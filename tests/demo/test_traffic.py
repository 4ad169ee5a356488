import json
from pathlib import Path

import pytest

from demo import traffic
from demo.traffic import Wish


def write(folder: Path, train: list[object], validate: list[object]) -> Path:
    for name, rows in (("train", train), ("validate", validate)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def row(tool: str, **arguments: str) -> dict[str, object]:
    return {"text": f"please {tool}", "tool": tool, "arguments": arguments}


def test_schemas_come_from_train_alone(tmp_path: Path) -> None:
    folder = write(
        tmp_path, [row("b", y="1"), row("a", z="1"), row("a", x="2")], [row("c", secret="1"), row("a", w="1")]
    )
    tools = traffic.read(folder).tools
    assert [tool["function"]["name"] for tool in tools] == ["a", "b"]
    assert list(tools[0]["function"]["parameters"]["properties"]) == ["x", "z"]


def test_parameters_come_in_the_order_in_which_users_say_them() -> None:
    rows = [
        Wish("tomorrow in Rome", "weather", {"city": "Rome", "day": "tomorrow"}),
        Wish("in Oslo it rains on Monday, in C", "weather", {"city": "Oslo", "day": "Monday", "unit": "C"}),
        Wish("will Bern see sun today", "weather", {"city": "Bern", "day": "today", "country": "Switzerland"}),
    ]
    assert list(traffic.schemas(rows)[0]["function"]["parameters"]["properties"]) == ["city", "day", "unit", "country"]


def test_schemas_do_not_depend_on_the_order_of_rows() -> None:
    rows = [Wish("1", "b", {"y": "1", "x": "1"}), Wish("2", "a", {"z": "1"}), Wish("or 1", "b", {"a": "1", "x": "or"})]
    assert json.dumps(traffic.schemas(rows)) == json.dumps(traffic.schemas(rows[::-1]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "play', "not JSON"),
        ('{"text": "play", "tool": "Play"}', "expected"),
        ("[1, 2]", "expected"),
        ('{"text": "", "tool": "Play", "arguments": {}}', "expected"),
        ('{"text": "play", "tool": "Play", "arguments": {"year": 1959}}', "'year' is not a string"),
    ],
)
def test_broken_line_is_named_by_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    folder = write(tmp_path, [row("a"), line, row("a")], [row("a")])
    with pytest.raises(ValueError, match=said) as error:
        traffic.read(folder)
    assert f"{folder / 'train.jsonl'}, line 2:" in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    folder = write(tmp_path, [row("a")], [row("a")])
    (folder / "validate.jsonl").write_bytes(json.dumps(row("a")).encode() + b"\n{\xff")
    with pytest.raises(ValueError, match=r"validate\.jsonl, line 2: not UTF-8"):
        traffic.read(folder)


def test_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl is missing"):
        traffic.read(tmp_path)
    with pytest.raises(ValueError, match=r"validate\.jsonl is empty"):
        traffic.read(write(tmp_path, [row("a")], []))


def test_unicode_line_separators_inside_a_text_do_not_break_its_line(tmp_path: Path) -> None:
    text = "play\u2028this\x85now"
    line = json.dumps({"text": text, "tool": "Play", "arguments": {}}, ensure_ascii=False)
    assert traffic.read(write(tmp_path, [line], [row("a")])).train[0].text == text
