"""The demo's tokenizer: byte-level BPE with Harmony's tokens, trained on what the tasks say.

A model this small cannot learn how a thousand pieces of words are spelt and then turn them round. So of the pieces that
training finds only whole words stay, and what a user brings of his own is read letter by letter; digits stand for
themselves.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..weights.tokenizer_writer import SPECIALS, byte_level, byte_pieces, save_tokenizer, special_ids

# Words with the space before them, digits one by one, runs of marks, line ends, other space.
PATTERN = r" ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
MULTIPLE = 16  # of the vocabulary, which matrix products like
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LEAST = 3  # times that two neighbours must have been seen


def write_word_tokenizer(directory: Path, texts: Iterable[str], known: Container[str], size: int, context: int) -> int:
    """Train on `texts` and write the files of a checkpoint's tokenizer. Returns the size of the vocabulary.

    `known` are the words, in lower case, that may become tokens; `size` is how many tokens BPE learns.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = learnt_words(texts, known, size)
    least = len(alphabet) + SPECIALS
    vocabulary = max(least, (least + len(whole)) // MULTIPLE * MULTIPLE)
    vocab = {piece: place for place, piece in enumerate([*alphabet, *whole][: vocabulary - SPECIALS])}
    specials = special_ids(vocabulary)
    # A piece that is a word of the vocabulary is that word; any other has no merges and comes apart into its bytes.
    model = models.BPE(vocab=vocab, merges=[], ignore_merges=True, fuse_unk=False, byte_fallback=False)
    save_tokenizer(directory, byte_level(model, PATTERN, specials), specials, context)
    return vocabulary


def copy_tokenizer(source: Path, directory: Path) -> None:
    """A tokenizer's files from one folder into another. Raises ValueError where one is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        try:
            shutil.copyfile(source / name, directory / name)
        except OSError as error:
            raise ValueError(f"{source / name}: {error.strerror}") from None


def learnt_words(texts: Iterable[str], known: Container[str], size: int) -> list[str]:
    """Of the tokens that BPE learns those that are whole pieces of `texts`, the commonest first; spelt in bytes."""
    pieces, counts = byte_pieces(PATTERN), Counter[tuple[str, str]]()
    for text in texts:
        for piece, (start, end) in pieces.pre_tokenize_str(text):
            word = text[start:end].strip()
            if len(piece) > 1 and (word.lower() in known or not any(map(str.isalnum, word))):
                counts[piece, text[start:end]] += 1
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pieces
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + size, initial_alphabet=alphabet, min_frequency=LEAST, show_progress=False
    )
    learner.train_from_iterator((text for (_, text), count in counts.items() for _ in range(count)), trainer)
    learnt = json.loads(learner.to_str())["model"]["vocab"]
    return [piece for (piece, _), _ in counts.most_common() if piece in learnt]
