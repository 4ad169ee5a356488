"""`trivium keys`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import trivium
from cluster.auth import Keys


@pytest.fixture
def run(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIVIUM_STATE", str(state))

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(trivium.main, ["keys", *arguments])

    return command


def test_a_new_key_stands_alone_on_standard_output_and_works(run, state: Path) -> None:
    made = run("create", "app", "--requests-per-minute", "60", "--concurrent", "2", "--priority", "5")
    assert made.exit_code == 0 and "only time" in made.stderr
    (key,) = made.stdout.split("\n")[:-1]
    who = Keys(state).authenticate(f"Bearer {key}")
    assert who and (who.id, who.scopes, who.priority) == ("app", ("infer", "feedback"), 5)
    assert (who.limits.requests_per_minute, who.limits.tokens_per_minute, who.limits.concurrent) == (60, None, 2)


def test_a_list_shows_every_key_and_no_secret(run, state: Path) -> None:
    secret = run("create", "app", "--scope", "admin", "--tokens-per-minute", "90000").stdout.strip().split("-", 3)[3]
    table, listed = run("list").stdout, json.loads(run("list", "--json").stdout)
    assert "app" in table and "90,000" in table
    assert [(each["name"], each["scopes"], each["limits"]["tokens_per_minute"]) for each in listed] == [
        ("app", ["admin"], 90000)
    ]
    digest = Keys(state).entries()[0].digest
    for shown in (table, json.dumps(listed)):
        assert secret not in shown and digest not in shown


def test_a_revoked_key_is_gone(run, state: Path) -> None:
    key = run("create", "app").stdout.strip()
    assert "app" in run("revoke", "app").stdout
    assert Keys(state).authenticate(f"Bearer {key}") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("revoke", "nobody"), "no key called nobody"),
        (("create", "a/b"), "no name for a key"),
        (("create", "app", "--scope", "root"), "'root' is not one of"),
        (("create", "app", "--concurrent", "0"), "x>=1"),
        (("create", "app", "--priority", "1000"), "-100<=x<=100"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output
