"""Small tokenizers of the kinds that checkpoints bring, trained here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from yardmaster.server.text.template import ChatTemplate
from yardmaster.server.text.tokenizer import Tokenizer
from yardmaster.tests.server.text.templates import CONFIGS, TEMPLATES

HARMONY = [
    *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>"),
    *("<|message|>", "<|call|>"),
]
CORPUS = [
    "the quick brown fox jumps over the lazy dog. assistant user system developer analysis final commentary",
    "Größe naïve café — 你好世界 🙂 functions.get_weather to=functions {'city': 'Paris'}\n\n",
    "Knowledge cutoff: 2024-06\nReasoning: low # Valid channels: analysis, commentary, final. 0123456789",
]


def byte_level(specials: list[str], plain: tuple[str, ...] = (), bos: str | None = None) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    backend.add_tokens([AddedToken(text, normalized=False) for text in plain])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        template = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
        backend.post_processor = template
    return backend


def sentencepiece(specials: list[str]) -> tokenizers.Tokenizer:
    """As Llama 2 and Mixtral export it: control tokens inside the vocabulary, bytes as `<0xNN>`."""
    vocabulary = {text: place for place, text in enumerate(["<unk>", "<s>", "</s>", *specials])}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in "▁abcdefghijklmnopqrstuvwxyzABC<>/|[].,'é你":
        vocabulary.setdefault(character, len(vocabulary))
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "n"), ("▁", "▁"), ("▁▁", "▁▁")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ["<unk>", "<s>", "</s>", *specials]]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return backend


def unigram(specials: list[str]) -> tokenizers.Tokenizer:
    """Control tokens among the scored pieces: a lattice search would find them in plain text."""
    pieces = [("<unk>", 0.0), *((text, 0.0) for text in specials)]
    pieces += [(character, -5.0) for character in "▁abcdefghijklmnopqrstuvwxyz<>|_/"]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return backend


def wordpiece() -> tokenizers.Tokenizer:
    words = ["[UNK]", "[CLS]", "the", "fox", "##es", "##t", "a", "dog", ".", "'", "s", "##x"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens([AddedToken("[CLS]", special=True), AddedToken("[UNK]", special=True)])
    return backend


BUILDERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "harmony": lambda: byte_level(HARMONY),
    "qwen": lambda: byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ("<think>", "</think>", "<tool_call>", "</tool_call>")
    ),
    "llama": lambda: byte_level(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], bos="<|begin_of_text|>"
    ),
    "phi": lambda: byte_level(["<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]),
    "mistral": lambda: sentencepiece(["[INST]", "[/INST]", "[TOOL_CALLS]"]),
    "unigram": lambda: unigram(["<s>", "<|im_end|>"]),
    "wordpiece": wordpiece,
}


def write(directory: Path, kind: str, **configs: Any) -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    BUILDERS[kind]().save(str(directory / "tokenizer.json"))
    for name, value in configs.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(kind, tokenizer_config={…})`: a folder with that kind of tokenizer."""

    def make(kind: str, **configs: Any) -> Path:
        return write(tmp_path_factory.mktemp(kind), kind, **configs)

    return make


@pytest.fixture(scope="session")
def tokenizer_of(checkpoint: Callable[..., Path]) -> Callable[[str], Tokenizer]:
    made: dict[str, Tokenizer] = {}

    def of(kind: str) -> Tokenizer:
        if kind not in made:
            made[kind] = Tokenizer(checkpoint(kind))
        return made[kind]

    return of


@pytest.fixture(scope="module")
def template_of(checkpoint: Callable[..., Path]) -> Iterator[Callable[[str], tuple[Tokenizer, ChatTemplate, Path]]]:
    made: dict[str, tuple[Tokenizer, ChatTemplate, Path]] = {}

    def of(name: str) -> tuple[Tokenizer, ChatTemplate, Path]:
        if name not in made:
            kind, source = TEMPLATES[name]
            directory = checkpoint(kind, tokenizer_config=CONFIGS[kind] | {"chat_template": source})
            tokenizer = Tokenizer(directory)
            template = ChatTemplate.load(directory, tokenizer, time_limit=10)
            assert template is not None
            made[name] = tokenizer, template, directory
        return made[name]

    yield of
    for _, template, _ in made.values():
        template.close()
