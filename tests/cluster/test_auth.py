from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from cluster.auth import Keys, Limits, first_key, mint_key, write_private


def test_a_key_speaks_for_its_principal_and_nobody_elses_does(tmp_path: Path) -> None:
    key = Keys(tmp_path).create("alice", ("infer",))
    keys = Keys(tmp_path)
    who = keys.authenticate(f"Bearer {key}")
    assert who and (who.id, who.scopes, who.limited) == ("alice", ("infer",), False)
    assert keys.authenticate(f"bearer  {key}") == who
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {key}",
        key,
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
        f"Bearer {key[:20]}{'x' * 43}",
        "Bearer sk-trivium-00000000-" + key[20:],
        "Bearer sk-trivium-" + key[20:],
        "Bearer \xe9",
    ):
        assert keys.authenticate(wrong) is None


def test_a_key_made_later_is_known_to_whoever_is_running(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    assert keys.authenticate("Bearer sk-trivium-none") is None
    made = [Keys(tmp_path).create(f"user{n}") for n in range(5)]  # faster than the clock of the file system ticks
    for n, key in enumerate(made):
        who = keys.authenticate(f"Bearer {key}")
        assert who is not None and who.id == f"user{n}"


def test_a_removed_key_is_refused_by_whoever_is_running(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.create("alice")
    assert keys.authenticate(f"Bearer {key}")
    write_private(tmp_path / "secrets" / "keys.json", b"{}")
    assert keys.authenticate(f"Bearer {key}") is None


def test_an_unknown_scope_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scope is called root; choose from infer, feedback, agents, admin"):
        Keys(tmp_path).create("alice", ("infer", "root"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alice", "a key called alice already; revoke it first"),
        ("owner", "the key that `trivium up` makes"),
        ("../x", "is no name for a key"),
        ("", "is no name for a key"),
    ],
)
def test_a_name_stands_for_one_key(tmp_path: Path, name: str, message: str) -> None:
    Keys(tmp_path).create("alice")
    with pytest.raises(ValueError, match=message):
        Keys(tmp_path).create(name)


def test_a_revoked_key_is_refused_at_once_by_name_or_id_and_its_name_is_free_again(tmp_path: Path) -> None:
    running, keys = Keys(tmp_path), Keys(tmp_path)
    made = {name: keys.create(name) for name in ("alice", "bob", "carol")}
    assert keys.revoke("alice").name == "alice"
    assert keys.revoke(made["bob"].split("-")[2]).name == "bob"
    assert [entry.name for entry in running.entries()] == ["carol"]
    assert [running.authenticate(f"Bearer {key}") is not None for key in made.values()] == [False, False, True]
    again = keys.create("alice")
    assert running.authenticate(f"Bearer {again}") and not running.authenticate(f"Bearer {made['alice']}")
    with pytest.raises(ValueError, match="no key called dave; there are: carol, alice"):
        keys.revoke("dave")


def test_limits_and_priority_stay_with_the_key(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=60, tokens_per_minute=None, concurrent=2)
    key = Keys(tmp_path).create("alice", ("infer",), limits, priority=-3)
    who = Keys(tmp_path).authenticate(f"Bearer {key}")
    assert who and who.limited and (who.limits, who.priority, who.key) == (limits, -3, key.split("-")[2])


def test_a_revoked_first_key_is_made_anew_by_whoever_needs_one(tmp_path: Path) -> None:
    former = first_key(tmp_path)
    Keys(tmp_path).revoke("owner")
    now, keys = first_key(tmp_path), Keys(tmp_path)
    assert now != former and keys.authenticate(f"Bearer {now}") and not keys.authenticate(f"Bearer {former}")


def test_a_crash_between_the_first_keys_two_files_is_mended(tmp_path: Path) -> None:
    lost = first_key(tmp_path)
    (tmp_path / "secrets" / "api_key").unlink()
    now, keys = first_key(tmp_path), Keys(tmp_path)
    assert keys.authenticate(f"Bearer {now}") and not keys.authenticate(f"Bearer {lost}")
    assert [entry.name for entry in keys.entries()] == ["owner"]


def test_keys_of_before_they_had_ids_go_on(tmp_path: Path) -> None:
    key = "sk-trivium-" + "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    content = json.dumps({digest: {"id": "owner", "scopes": ["infer", "admin"]}})
    write_private(tmp_path / "secrets" / "keys.json", content.encode())
    write_private(tmp_path / "secrets" / "api_key", key.encode())
    keys = Keys(tmp_path)
    more = keys.create("alice")
    who = keys.authenticate(f"Bearer {first_key(tmp_path)}")
    assert who and (who.id, who.scopes) == ("owner", ("infer", "admin"))
    assert keys.authenticate(f"Bearer {more}")
    assert not keys.authenticate("Bearer sk-trivium-" + "j" * 43)


def test_secrets_are_for_this_user_only_and_keys_are_not_among_them_in_clear(tmp_path: Path) -> None:
    key = first_key(tmp_path)
    mint_key(tmp_path)
    secrets = tmp_path / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in secrets.iterdir() if file.name != ".lock")
    stored = (secrets / "keys.json").read_text()
    assert key not in stored and key.split("-", 3)[3] not in stored
    assert first_key(tmp_path) == key


def _at_once(state: Path, name: str, barrier, results) -> None:
    barrier.wait()
    results.put((mint_key(state), first_key(state), Keys(state).create(name)))


def test_processes_that_start_together_agree_on_the_secrets(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    children = [context.Process(target=_at_once, args=(tmp_path, f"x{n}", barrier, results)) for n in range(8)]
    for child in children:
        child.start()
    found = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert len({(mint, first) for mint, first, _ in found}) == 1
    keys = Keys(tmp_path)
    assert all(keys.authenticate(f"Bearer {own}") for _, _, own in found), "a key that was made is never lost"
    assert len(keys.entries()) == 9, "and the first key is one, whoever was first"
    assert keys.authenticate(f"Bearer {found[0][1]}")
