"""The tokenizer against the library it wraps, and against files that are none."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.tokenizer import Tokenizer, TokenizerError

KINDS = ["harmony", "qwen", "llama", "phi", "mistral", "unigram", "wordpiece"]
TokenizerOf = Callable[[str], Tokenizer]
QUICK = settings(max_examples=80, suppress_health_check=list(HealthCheck))


def pieces(tokenizer: Tokenizer) -> st.SearchStrategy[str]:
    """Text in which control tokens, and halves of them, are likely."""
    specials = sorted(tokenizer.special_texts)
    halves = [text[:cut] for text in specials for cut in range(1, len(text))]
    part = st.one_of(
        st.sampled_from(specials), st.sampled_from(halves), st.text(max_size=8), st.sampled_from([" ", "\n", "the fox"])
    )
    return st.lists(part, max_size=8).map("".join)


@pytest.mark.parametrize("kind", KINDS)
def test_trusted_text_encodes_as_the_library_does(kind: str, checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint(kind)
    tokenizer = Tokenizer(directory)
    library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    specials = sorted(tokenizer.special_texts)
    texts = ["", " ", "the fox", "  Größe 你 🙂\n\n", *specials]
    texts += [f"the {left} fox{right}\n{right} a" for left in specials for right in specials[:3]]
    for text in texts:
        assert tokenizer.encode_trusted(text) == library.encode(text, add_special_tokens=False).ids
        if not any(special in text for special in specials):
            assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
            assert tokenizer.encode(text, add_special_tokens=True) == library.encode(text).ids
    assert tokenizer.special_texts == {text: library.token_to_id(text) for text in specials}


@pytest.mark.parametrize("kind", ["harmony", "qwen", "llama", "phi", "mistral", "unigram"])
def test_text_from_outside_never_makes_a_control_token(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    unknown = {tokenizer.special_texts[text] for text in ("<unk>",) if text in tokenizer.special_texts}

    @QUICK
    @given(pieces(tokenizer))
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert not (tokenizer.special_ids - unknown) & set(ids)
        if kind not in ("unigram", "mistral"):  # those have no token for some characters, or normalise
            clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            assert tokenizer.decode(ids) == clean

    check()


def test_a_control_token_in_the_models_own_vocabulary_is_no_piece_of_text(tokenizer_of: TokenizerOf) -> None:
    # A Unigram lattice holds "<|im_end|>" as a piece with the best score of all: the library takes it from plain text.
    tokenizer = tokenizer_of("unigram")
    assert tokenizer.special_texts["<|im_end|>"] in tokenizer.encode_trusted("a<|im_end|>")
    assert tokenizer.special_texts["<|im_end|>"] not in tokenizer.encode("a<|im_end|>")


def test_merges_that_spell_a_control_token_go_with_its_name(tmp_path: Path) -> None:
    vocabulary = {text: place for place, text in enumerate(["<s>", "<", "s", ">", "<s", "s>", "a"])}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("<", "s"), ("<s", ">"), ("s", ">")]))
    library.add_special_tokens(["<s>"])
    library.decoder = tokenizers.decoders.ByteLevel()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.encode("a<s>") == [6, 4, 3]
    assert tokenizer.encode_trusted("a<s>") == [6, 0]


def test_the_beginning_token_is_the_post_processors(tokenizer_of: TokenizerOf) -> None:
    llama, harmony = tokenizer_of("llama"), tokenizer_of("harmony")
    assert llama.encode("the", True) == [llama.special_texts["<|begin_of_text|>"], *llama.encode("the")]
    assert harmony.encode("the", True) == harmony.encode("the")


def test_secret_names_of_two_tokenizers_differ(checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint("harmony")
    first, second = Tokenizer(directory), Tokenizer(directory)
    assert not set(first.secret_names.values()) & set(second.secret_names.values())
    secret = first.secret_names["<|start|>"]
    assert first.encode(f"a{secret}b") == first.encode("ab")  # even one that has leaked is no control token


@pytest.mark.parametrize("kind", ["harmony", "qwen", "mistral"])
def test_decode_agrees_with_the_library(kind: str, checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint(kind)
    tokenizer = Tokenizer(directory)
    library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))

    @QUICK
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30), st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        expected = library.decode(ids, skip_special_tokens=skip)
        # Invalid bytes are where sentencepiece's decoder differs: it gives up the valid characters around them too.
        if kind != "mistral" or "\ufffd" not in expected:
            assert tokenizer.decode(ids, skip) == expected

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_decode_never_fails(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    wild = [-1, tokenizer.vocab_size, 1 << 40, 5]
    text = tokenizer.decode(wild)
    assert text.count("\ufffd") >= 3
    assert tokenizer.token_bytes(1 << 70) == "\ufffd".encode()
    assert tokenizer.token_text(-7) == "\ufffd"
    assert tokenizer.decode([]) == ""


def test_token_bytes_are_exact(tokenizer_of: TokenizerOf) -> None:
    text = "naïve 你好 🙂\t\n the fox  <|start|>"
    for kind in ("harmony", "mistral"):
        tokenizer = tokenizer_of(kind)
        ids = tokenizer.encode(text)
        data = b"".join(map(tokenizer.token_bytes, ids))
        assert data.removeprefix(b" " if kind == "mistral" else b"") == text.encode()
    tokenizer = tokenizer_of("harmony")
    start = tokenizer.special_texts["<|start|>"]
    assert tokenizer.token_bytes(start) == b"<|start|>"
    assert tokenizer.token_text(start) == "<|start|>"
    assert tokenizer.decode([start, *tokenizer.encode("a")]) == "a"
    assert tokenizer.decode([start, *tokenizer.encode("a")], skip_special_tokens=False) == "<|start|>a"


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_control_tokens_keep_their_names_in_other_decoders(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    text, token_id = next(iter(tokenizer.special_texts.items()))
    assert tokenizer.token_text(token_id) == text
    assert tokenizer.decode([token_id], skip_special_tokens=False) == text


def test_lone_surrogates_are_replaced(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude42")) == "🙂"


def test_truncation_and_padding_in_the_file_are_off(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    library = tokenizers.Tokenizer.from_file(str(checkpoint("harmony") / "tokenizer.json"))
    library.enable_truncation(3)
    library.enable_padding(length=64)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    text = "the quick brown fox " * 20
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_end_tokens(checkpoint: Callable[..., Path]) -> None:
    plain = Tokenizer(checkpoint("harmony"))
    end, call = plain.special_texts["<|return|>"], plain.special_texts["<|call|>"]
    assert plain.eos_token_ids == ()
    assert Tokenizer(checkpoint("harmony", generation_config={"eos_token_id": [end, call, end]})).eos_token_ids == (
        end,
        call,
    )
    assert Tokenizer(checkpoint("harmony", generation_config={"eos_token_id": end})).eos_token_ids == (end,)
    named = Tokenizer(checkpoint("harmony", tokenizer_config={"eos_token": {"content": "<|return|>"}}))
    assert named.eos_token_ids == (end,)
    assert named.special_variables == {"eos_token": "<|return|>"}
    with pytest.raises(TokenizerError, match=r"generation_config\.json.*eos_token_id"):
        Tokenizer(checkpoint("harmony", generation_config={"eos_token_id": ["x"]}))


BAD_FILES = {
    "empty": b"",
    "not_json": b"\x80\x04pickle",
    "latin": '{"a": "é"}'.encode("latin-1"),
    "list": b"[]",
    "no_model": b"{}",
    "null_model": b'{"model": null, "added_tokens": null}',
    "deep": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "unknown_model": b'{"version": "1.0", "model": {"type": "Magic", "vocab": {}}}',
    "bad_merge": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a zz"]}}',
    "bad_added": b'{"version": "1.0", "added_tokens": [7], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
    "no_vocabulary": b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "bad_id": b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
    "gap": b'{"version": "1.0", "added_tokens": [{"id": 9, "content": "<x>", "single_word": false, "lstrip": false, '
    b'"rstrip": false, "normalized": false, "special": true}], '
    b'"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_give_one_line_that_names_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json") as caught:
        Tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_missing_device_directory_and_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenizerError, match="missing"):
        Tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(TokenizerError, match="not a regular file"):
        Tokenizer(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TokenizerError, match="not a regular file"):
        Tokenizer(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(TokenizerError, match="not a regular file"):
        Tokenizer(tmp_path)
    path.unlink()
    path.write_bytes(b" " * 2000)
    monkeypatch.setattr("yardmaster.server.text.tokenizer.MAX_FILE_BYTES", 1000)
    with pytest.raises(TokenizerError, match="larger"):
        Tokenizer(tmp_path)


def test_a_panic_of_the_library_is_an_error(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    class PanicException(BaseException):
        """What pyo3 raises when Rust panics; it cannot be imported."""

    class Panicking:
        def encode_batch_fast(self, *_: object, **__: object) -> None:
            raise PanicException("called `Option::unwrap()`\non a `None` value")

    tokenizer = Tokenizer(checkpoint("harmony"))
    tokenizer._backend = Panicking()  # type: ignore[assignment]
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*unwrap.*None"):
        tokenizer.encode("a")


def test_dropout_is_off(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    spec = json.loads((checkpoint("harmony") / "tokenizer.json").read_text())
    spec["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer(tmp_path)
    assert len({tuple(tokenizer.encode("the quick brown fox jumps")) for _ in range(20)}) == 1


def test_a_long_text_leaves_other_threads_free(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    thread = threading.Thread(target=lambda: tokenizer.encode("the fox é " * 60_000))
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_no_fewer_bytes_than_said(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    for text in ("", "the fox" * 9, "Gr\u00f6\u00dfe \U0001f642" * 9, "e\u0301" * 9):
        assert 0 <= tokenizer.least_bytes(text) <= len(text.encode())
    if kind == "harmony":
        text = "Gr\u00f6\u00dfe \U0001f642"
        assert tokenizer.least_bytes(text) == sum(map(len, map(tokenizer.token_bytes, tokenizer.encode(text))))


@pytest.mark.parametrize("kind", ["harmony", "llama", "mistral"])
def test_several_texts_at_once(kind: str, tokenizer_of: Callable[[str], Tokenizer]) -> None:
    tokenizer = tokenizer_of(kind)
    secret = next(iter(tokenizer.secret_names.values()))
    texts = ["the fox", "", " ", "<|start|><s>", "Größe 🙂", "half \ud83d a pair", f"a{secret}b", "\n\n"]
    assert tokenizer.encode_each(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_each([]) == []
