"""The made-up tokenizer: any size, every byte, the Harmony tokens where o200k_harmony has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.tokenizer_writer import HARMONY, SMALLEST, make_tokenizer, special_ids, write_tokenizer

SMALL = make_tokenizer(special_ids(2048))


@pytest.mark.parametrize("size", [SMALLEST, SMALLEST + 1, 300, 513, 4096])
def test_every_id_is_a_token(size: int) -> None:
    specials = special_ids(size)
    tokenizer = make_tokenizer(specials)
    assert tokenizer.get_vocab_size() == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert specials.keys() >= HARMONY.keys()
    assert max(specials.values()) == size - 1
    for name, id_ in specials.items():
        assert tokenizer.token_to_id(name) == id_
        assert tokenizer.encode(f"a{name}b").ids.count(id_) == 1
    # All plain tokens decode to text of their own, so that whatever a random model says is seen.
    plain = range(size - len(specials))
    assert all(tokenizer.decode([id_]) for id_ in plain)


def test_the_true_ids() -> None:
    specials = special_ids(201088)
    tokenizer = make_tokenizer(specials)
    assert tokenizer.get_vocab_size() == 200019
    true = {
        "<|startoftext|>": 199998,
        "<|endoftext|>": 199999,
        "<|return|>": 200002,
        "<|constrain|>": 200003,
        "<|channel|>": 200005,
        "<|start|>": 200006,
        "<|end|>": 200007,
        "<|message|>": 200008,
        "<|call|>": 200012,
    }
    assert {name: tokenizer.token_to_id(name) for name in true} == true
    assert "".join(true) == tokenizer.decode(list(true.values()), skip_special_tokens=False)
    assert tokenizer.decode(list(true.values())) == ""


@settings(max_examples=300)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_it_has_learnt_some_english() -> None:
    text = "The yardmaster knows on which track every car of the train has to stop."
    assert len(SMALL.encode(text).ids) < len(text) / 3


def test_sizes_out_of_range() -> None:
    for size in (-1, 0, 256, SMALLEST - 1, 1 << 30):
        with pytest.raises(CheckpointError, match=f"vocabulary of {size} cannot be made"):
            special_ids(size)


def test_the_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    specials = write_tokenizer(tmp_path, 1000, 4096)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<|startoftext|>", "<|return|>", "<|endoftext|>")
    assert theirs.model_max_length == 4096
    assert set(specials.values()) <= set(theirs.added_tokens_decoder)
    text = "<|start|>user<|message|>It's 12345 — 世界\r\n\n  x<|end|>"
    assert theirs(text)["input_ids"] == ours.encode(text).ids
    assert ours.encode(text).ids[0] == specials["<|start|>"]


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 3000)
    code = (
        "import sys; from pathlib import Path; from yardmaster.weights.tokenizer_writer import write_tokenizer;"
        "p = Path(sys.argv[1]); p.mkdir(); write_tokenizer(p, 3000)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env={"PYTHONHASHSEED": "7"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    json.loads((tmp_path / "tokenizer.json").read_text())
