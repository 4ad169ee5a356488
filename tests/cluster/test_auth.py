from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from cluster.auth import Keys, Principal, first_key, mint_key, write_private


def test_a_key_speaks_for_its_principal_and_nobody_elses_does(tmp_path: Path) -> None:
    key = Keys(tmp_path).create("alice", ("infer",))
    keys = Keys(tmp_path)
    assert keys.authenticate(f"Bearer {key}") == Principal("alice", ("infer",))
    assert keys.authenticate(f"bearer  {key}") == Principal("alice", ("infer",))
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {key}",
        key,
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
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
    with pytest.raises(ValueError, match="no scope is called root; choose from infer, feedback, admin"):
        Keys(tmp_path).create("alice", ("infer", "root"))


def test_secrets_are_for_this_user_only_and_keys_are_not_among_them_in_clear(tmp_path: Path) -> None:
    key = first_key(tmp_path)
    mint_key(tmp_path)
    secrets = tmp_path / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in secrets.iterdir() if file.name != ".lock")
    assert key not in (secrets / "keys.json").read_text()
    assert first_key(tmp_path) == key


def _at_once(state: Path, barrier, results) -> None:
    barrier.wait()
    results.put((mint_key(state), first_key(state), Keys(state).create("x")))


def test_processes_that_start_together_agree_on_the_secrets(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    children = [context.Process(target=_at_once, args=(tmp_path, barrier, results)) for _ in range(8)]
    for child in children:
        child.start()
    found = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert len({(mint, first) for mint, first, _ in found}) == 1
    keys = Keys(tmp_path)
    assert all(keys.authenticate(f"Bearer {own}") for _, _, own in found), "a key that was made is never lost"
    assert keys.authenticate(f"Bearer {found[0][1]}")
