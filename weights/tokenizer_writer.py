"""Makes a byte-level BPE tokenizer of any size with the Harmony tokens: tokenizer.json and what belongs beside it.

The merges are learnt from a page of English, then filled up with pairs of what was learnt, so that every id of
a random model is text. The special tokens end the vocabulary, as in o200k_harmony; with 201088 ids they have its ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .english import ENGLISH
from .errors import CheckpointError
from .harmony_template import TEMPLATE
from .writer import write_json, write_text

# Distance from the first special id; o200k_harmony has them at 199998 and up.
HARMONY = {
    "<|startoftext|>": 0,
    "<|endoftext|>": 1,
    "<|return|>": 4,
    "<|constrain|>": 5,
    "<|channel|>": 7,
    "<|start|>": 8,
    "<|end|>": 9,
    "<|message|>": 10,
    "<|call|>": 14,
    "<|endofprompt|>": 20,
}
SPECIALS = 21
TRUE_FIRST = 199_998
SMALLEST = 256 + SPECIALS
LARGEST = 1 << 22
SPACE = "Ġ"  # how byte-level BPE writes the byte of a space

# After o200k: words with the mark or space before them, numbers by threes, runs of marks, line ends, other space.
PATTERN = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def special_ids(vocab_size: int) -> dict[str, int]:
    """The Harmony and reserved tokens of a vocabulary, with their ids. Raises CheckpointError for a size out of range.

    Ids above the last of them (201088 has 1069 such) are unused, as in the model's own vocabulary.
    """
    if not SMALLEST <= vocab_size <= LARGEST:
        fact = f"a vocabulary of {vocab_size} cannot be made"
        raise CheckpointError("tokenizer.json", fact, mend=f"choose a size from {SMALLEST} to {LARGEST}")
    first = min(TRUE_FIRST, vocab_size - SPECIALS)
    names = {offset: name for name, offset in HARMONY.items()}
    return {names.get(offset, f"<|reserved_{first + offset}|>"): first + offset for offset in range(SPECIALS)}


def write_tokenizer(directory: Path, vocab_size: int, model_max_length: int = 131072) -> dict[str, int]:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja; returns the special ids.

    Raises CheckpointError for a size out of range or a directory that cannot be written.
    """
    specials = special_ids(vocab_size)
    save_tokenizer(directory, make_tokenizer(specials), specials, model_max_length)
    return specials


def save_tokenizer(directory: Path, tokenizer: Tokenizer, specials: dict[str, int], model_max_length: int) -> None:
    """Write a tokenizer whose control tokens are `specials`, and Harmony's chat template."""
    write_text(directory / "tokenizer.json", tokenizer.to_str(pretty=False) + "\n")
    config = {
        "added_tokens_decoder": {
            str(id_): {
                "content": name,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for name, id_ in specials.items()
        },
        "bos_token": "<|startoftext|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|return|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": model_max_length,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(directory / "tokenizer_config.json", config)
    write_text(directory / "chat_template.jinja", TEMPLATE)


def make_tokenizer(specials: dict[str, int]) -> Tokenizer:
    """A tokenizer whose plain tokens fill the ids below the first special one."""
    vocab, merges = _merges(min(specials.values()))
    return byte_level(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False), PATTERN, specials)


def byte_level(model: models.BPE, pattern: str, specials: dict[str, int]) -> Tokenizer:
    """`model` over the bytes of the pieces that `pattern` finds, with control tokens."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = byte_pieces(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def byte_pieces(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cuts a text into the pieces that `pattern` finds, spelt in bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _merges(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`size` tokens: the 256 bytes, then what the merges make."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = byte_pieces(PATTERN)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    learner.train_from_iterator(ENGLISH.splitlines(keepends=True), trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocab: dict[str, int] = learnt["vocab"]
    merges = [(left, right) for left, right in learnt["merges"]]
    # The page teaches about a thousand tokens. Beyond it: pairs of them, the earliest learnt first.
    heads = [token for token in sorted(vocab, key=lambda token: vocab[token])[256:] if _is_word(token.lstrip(SPACE))]
    tails = [token for token in heads if not token.startswith(SPACE)]
    for left, right in _pairs(heads, tails):
        if len(vocab) >= size:
            break
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
    return vocab, merges


def _pairs(heads: list[str], tails: list[str]) -> Iterator[tuple[str, str]]:
    """All pairs, those of early words first."""
    for total in range(len(heads) + len(tails)):
        for i in range(max(0, total - len(tails) + 1), min(total + 1, len(heads))):
            yield heads[i], tails[total - i]


def _is_word(token: str) -> bool:
    return token.isascii() and token.isalpha()
