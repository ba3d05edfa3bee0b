"""The keys file: both forms, every slip told by its place, and no part of a key in any message."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.fair.key_file import KeySpec, read_keys

SECRET = "sk-very-secret-0123"


def written(folder: Path, text: str | bytes, name: str = "keys.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_all_fields_in_both_forms(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"another-key").hexdigest()
    keys: list[dict[str, Any]] = [
        {
            "name": "alice",
            "key": SECRET,
            "weight": 2,
            "requests_per_minute": 60,
            "tokens_per_minute": 10**6,
            "max_concurrent": 8,
            "priority": -5,
        },
        {"name": "ops", "sha256": digest.upper(), "admin": True},
    ]
    text = json.dumps({"keys": keys}, indent=2)
    yaml = (
        f"# who may come in\nkeys:\n  - name: alice\n    key: {SECRET}\n    weight: 2\n    requests_per_minute: 60\n"
        "    tokens_per_minute: 1000000\n    max_concurrent: 8\n    priority: -5\n"
        f"  - {{name: ops, sha256: '{digest}', admin: true}}\n"
    )
    for path in (written(tmp_path, text, "keys.json"), written(tmp_path, text), written(tmp_path, yaml, "keys.yml")):
        alice, ops = read_keys(path)
        assert alice == KeySpec(
            name="alice",
            sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
            weight=2.0,
            requests_per_minute=60,
            tokens_per_minute=10**6,
            max_concurrent=8,
            priority=-5,
        )
        assert (ops.name, ops.admin, ops.digest.hex(), ops.weight) == ("ops", True, digest, 1.0)
        assert ops.tokens_per_minute is ops.requests_per_minute is ops.max_concurrent is None
        assert SECRET not in repr([alice, ops])
        assert alice.key is None


ONE = f"{{name: a, key: {SECRET}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expected `object`"),
        ("keys:", "$.keys"),
        ("keys: []", "no keys"),
        ("[]", "Expected `object`"),
        (SECRET, "Expected `object`"),
        (f"keys: {{{SECRET}: {{}}}}", "$.keys"),
        (f"{SECRET}: 1\nkeys: [{ONE}}}]", "unknown field in the file"),
        (f"keys: [{ONE}, {SECRET}: 1}}]", "unknown field in keys[0]"),
        (f"keys: [{ONE}, wieght: 1}}]", "there is `keys`, and in each of them name, key, sha256"),
        (f"keys: [{ONE}}}, {{name: b}}]", "keys[1] must have either"),
        (f"keys: [{ONE}, sha256: '{'0' * 64}'}}]", "keys[0] must have either"),
        (f"keys: [{{key: {SECRET}}}]", "`name`"),
        (f"keys: [{ONE}}}, {{name: a, key: {SECRET}x}}]", "keys[1].name: taken"),
        (f"keys: [{ONE}}}, {{name: b, key: {SECRET}}}]", "keys[1] is the same key as keys[0]"),
        (f"keys: [{{name: {SECRET}, key: {SECRET}}}]", "keys[0].name must not be the key itself"),
        (f"keys: [{{name: internal, key: {SECRET}}}]", "keys[0].name: reserved"),
        (f"keys: [{{name: 'a b', key: {SECRET}}}]", "keys[0].name must be"),
        (f"keys: [{{name: '', key: {SECRET}}}]", "keys[0].name must be"),
        (f"keys: [{{name: {'a' * 65}, key: {SECRET}}}]", "keys[0].name must be"),
        (f'keys: [{{name: "a\\n", key: {SECRET}}}]', "keys[0].name must be"),
        ("keys: [{name: a, key: sk-very}]", "keys[0].key must be at least 8"),
        ("keys: [{name: a, key: 'sk-very secret'}]", "keys[0].key must be at least 8"),
        ("keys: [{name: a, key: 1234567890}]", "$.keys[0].key"),
        (f"keys: [{{name: a, sha256: {SECRET}}}]", "keys[0].sha256 must be 64"),
        (f"keys: [{ONE}, weight: 0}}]", "$.keys[0].weight"),
        (f"keys: [{ONE}, weight: .nan}}]", "$.keys[0].weight"),
        (f"keys: [{ONE}, weight: .inf}}]", "$.keys[0].weight"),
        (f"keys: [{ONE}, weight: '2'}}]", "$.keys[0].weight"),
        (f"keys: [{ONE}, requests_per_minute: 0}}]", "$.keys[0].requests_per_minute"),
        (f"keys: [{ONE}, tokens_per_minute: 1.5}}]", "$.keys[0].tokens_per_minute"),
        (f"keys: [{ONE}, max_concurrent: true}}]", "$.keys[0].max_concurrent"),
        (f"keys: [{ONE}, priority: {2**31}}}]", "$.keys[0].priority"),
        (f"keys: [{ONE}, admin: 'yes'}}]", "$.keys[0].admin"),
        (f"keys: [{ONE}, key: {SECRET}}}]", "line 1: a field stands there twice"),
        (f"keys:\n- {ONE}}}\n- *{SECRET}", "line 3"),
        (f"keys: [{ONE}", "not valid YAML at line 1"),
        (f"keys: [{{name: a, key: !!int {SECRET}}}]", "YAML tag"),
        (f"keys: [{{name: a, key: !!bool {SECRET}}}]", "YAML tag"),
        (f"keys: [{{name: a, key: !!python/name:os.{SECRET} ''}}]", "not valid YAML|YAML tag"),
        (f"keys: &all [{ONE}}}]\nmore: *all", "an alias refers to line 1"),
        ("? [a]\n: b", "no plain word"),
        ("[" * 200_000, "nested too deeply"),
        ("\0", "not valid YAML"),
        (b"keys: \xff\xfe", "not valid YAML"),
        ("#" * ((1 << 20) + 1), "larger"),
    ],
)
def test_slips(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match="keys") as caught:
        read_keys(path)
    assert str(caught.value).startswith(str(path))
    message = str(caught.value).removeprefix(str(path))
    assert any(each in message for each in words.split("|")), message
    assert "\n" not in message
    assert "secret" not in message
    assert "sk-" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON at line 1, column 1"),
        ('{"keys": [{"name": "a", "key": "' + SECRET, "not valid JSON"),
        ('{"keys": [], "keys": []}', "a field twice"),
        ('{"keys": [{"name": "a", "key": "' + SECRET + '", "weight": NaN}]}', "weight"),
        ("[" * 200_000, "nested too deeply"),
        (b"\xff", "not"),
    ],
)
def test_slips_in_json(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = written(tmp_path, text, "keys.json")
    with pytest.raises(ValueError, match=r"keys\.json") as caught:
        read_keys(path)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "absent"):
        with pytest.raises(ValueError, match=str(tmp_path)):
            read_keys(tmp_path / name)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = written(tmp_path, "\n".join(lines))
    begun = time.monotonic()
    with pytest.raises(ValueError, match="alias"):
        read_keys(path)
    assert time.monotonic() - begun < 2
