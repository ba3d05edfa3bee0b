"""Text to token ids and back, over the checkpoint's tokenizer.json.

How user text is kept from becoming control tokens: when the file is read, every control token (secret_names.py says
which these are) is renamed, in this process, to a secret name that holds 128 random bits. No text from outside can
spell such a name, so none of it, in whatever field and however it is cut and joined, can come out as a control token;
`<|start|>` in it is nine ordinary characters. The server's own text gets the secret names through `mark`, ids and plain
names are as in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from tokenizers import Tokenizer as Backend

from .files import read_json_object
from .secret_names import SecretNames, rename, special_tokens, template_tokens
from .template_files import MAX_CONFIG_BYTES, checkpoint_templates, template_file
from .token_bytes import byte_spelling

if TYPE_CHECKING:
    from .template import Rendered

MAX_FILE_BYTES = 256 << 20
REPLACEMENT = "\ufffd"

T = TypeVar("T")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time gains nothing, and forks draw warnings


class TokenizerError(ValueError):
    """tokenizer.json cannot be used, or failed on a text; one line that names the file and the mend."""


class Tokenizer:
    """The vocabulary of one checkpoint. Thread-safe after construction.

    Reads `directory`/tokenizer.json, and tokenizer_config.json and generation_config.json where present, and for
    its control tokens the chat template: that of the checkpoint, or in the file `chat_template`. Raises TokenizerError.
    """

    special_texts: dict[str, int]
    """What the file calls special: text, as in the file, to id."""
    special_ids: frozenset[int]
    template_texts: dict[str, int]
    """Control tokens that the file does not call special, but the chat template writes: text to id."""
    vocab_size: int
    """One above the largest id."""
    special_variables: dict[str, str]
    """What chat templates know as bos_token, eos_token …: name to the control token's text."""
    eos_token_ids: tuple[int, ...]
    """The end of a generation: generation_config.json's, else tokenizer_config.json's eos_token, else none."""

    def __init__(self, directory: Path, chat_template: Path | None = None) -> None:
        self._path = Path(directory) / "tokenizer.json"
        try:
            spec = read_json_object(self._path, MAX_FILE_BYTES)
        except FileNotFoundError:
            raise TokenizerError(f"{self._path} is missing; download it with the checkpoint") from None
        except ValueError as error:
            raise TokenizerError(str(error)) from None
        try:
            specials = special_tokens(spec)
            marks = template_tokens(spec, _template_text(Path(directory), chat_template))
        except (TypeError, KeyError, ValueError):
            raise TokenizerError(f"{self._path}: added_tokens is malformed; download the file again") from None
        self._names = SecretNames([*specials, *marks])
        rename(spec, self._names.secret_of)
        self._backend: Backend = self._run(lambda: Backend.from_str(msgspec.json.encode(spec).decode()))
        self._run(self._backend.no_truncation)
        self._run(self._backend.no_padding)

        self.special_texts = {}
        for text, wanted in specials.items():
            found = self._backend.token_to_id(self._names.secret_of[text])
            if found != wanted:
                raise TokenizerError(
                    f"{self._path} gives {text!r} the id {wanted}, but its place in the vocabulary is {found}; "
                    "number the added tokens without gaps"
                )
            self.special_texts[text] = found
        self.special_ids = frozenset(self.special_texts.values())
        ids = ((text, self._backend.token_to_id(self._names.secret_of[text])) for text in marks)
        self.template_texts = {text: token_id for text, token_id in ids if token_id is not None}
        self._text_of = {token_id: text for text, token_id in (self.special_texts | self.template_texts).items()}
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise TokenizerError(f"{self._path} has an empty vocabulary; download it again")
        self.vocab_size = max(vocabulary.values()) + 1
        self._spelling = byte_spelling(spec.get("decoder"))
        self._bytes_of: dict[int, bytes] = {}
        self._read_configs(Path(directory))

    # Text to ids

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of text from outside: a control token's text in it stays text.

        `add_special_tokens` adds what the file's post-processor adds (a BOS for Llama, nothing for gpt-oss).
        Raises TokenizerError.
        """
        return self._encode(self.without_secrets(text), add_special_tokens)

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of several texts, each by itself, in one call. Raises TokenizerError."""
        clean = [_unicode(self.without_secrets(text)) for text in texts]
        encoded = self._run(lambda: self._backend.encode_batch_fast(clean, add_special_tokens=False))
        return [each.ids for each in encoded]

    def encode_prompt(self, rendered: Rendered) -> list[int]:
        """Ids of a rendered chat: the template's own control tokens, and everything else as text."""
        return self._encode(rendered.marked, False)

    def encode_trusted(self, text: str) -> list[int]:
        """Ids of the server's own text, control tokens recognised. Never for anything a client sent."""
        return self._encode(self.mark(text), False)

    def mark(self, text: str) -> str:
        """The server's own text with control tokens under their secret names."""
        return self._names.mark(text)

    def unmark(self, text: str) -> str:
        """`text` with control tokens under their plain names again."""
        return self._names.unmark(text)

    @property
    def secret_names(self) -> Mapping[str, str]:
        """Control token's text to its secret name; for the template's compiler alone."""
        return self._names.secret_of

    def first_control(self, text: str) -> str | None:
        """The first control token whose plain name stands in `text`, where it is but text."""
        return self._names.first(text)

    def without_secrets(self, text: str) -> str:
        """`text` from outside, with secret names cut out."""
        # Nobody outside knows the secret; should it ever leak, this still keeps the promise.
        return self._names.cut(text)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        text = _unicode(text)
        # The batch's call lets other threads run meanwhile, a single text's does not; "fast" leaves out the offsets.
        return self._run(lambda: self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def least_bytes(self, text: str) -> int:
        """The tokens of `text` have at least so many bytes together."""
        if self._backend.normalizer is not None or text.isascii():  # a normalizer may compose characters
            return len(text)
        return len(text.encode("utf-8", "surrogatepass"))

    # Ids to text

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Never raises: an id outside the vocabulary, and bytes that are no UTF-8, give U+FFFD."""
        if skip_special_tokens:
            ids = [token_id for token_id in ids if token_id not in self.special_ids]
        if self._spelling is None:
            return self._decode_opaque(ids)
        data = b"".join(map(self.token_bytes, ids))
        return self.strip_start(data.decode("utf-8", "replace"))

    def strip_start(self, text: str) -> str:
        """Without the space that sentencepiece puts before a text's first word."""
        spaces = len(text) - len(text.lstrip(" "))
        return text[min(spaces, self.start_spaces) :]

    @property
    def start_spaces(self) -> int:
        """How many spaces the decoder drops at the very start of a text."""
        return self._spelling.strip_start if self._spelling else 0

    @property
    def decodes_bytes(self) -> bool:
        """A text's bytes are its tokens' bytes in a row; else tokens change with their neighbours (WordPiece …)."""
        return self._spelling is not None

    def token_text(self, token_id: int) -> str:
        """One token as text, control tokens by name; parts of characters give U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token; U+FFFD's for an id outside the vocabulary."""
        data = self._bytes_of.get(token_id)
        if data is None:
            data = self._spell(token_id)
            if 0 <= token_id < self.vocab_size:  # so the table stays as small as the vocabulary
                self._bytes_of[token_id] = data
        return data

    def _spell(self, token_id: int) -> bytes:
        if token_id in self._text_of:
            return self._text_of[token_id].encode()
        token = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return REPLACEMENT.encode()
        if self._spelling is None:
            return self._decode_opaque([token_id]).encode()
        return self._spelling.to_bytes(token)

    def _decode_opaque(self, ids: Sequence[int]) -> str:
        parts: list[str] = []
        run: list[int] = []
        for token_id in ids:
            if 0 <= token_id < self.vocab_size and self._backend.id_to_token(token_id) is not None:
                run.append(token_id)
                continue
            parts += self._decode_run(run), REPLACEMENT
            run = []
        return "".join([*parts, self._decode_run(run)])

    def _decode_run(self, run: list[int]) -> str:
        try:
            return self.unmark(self._run(lambda: self._backend.decode(run, skip_special_tokens=False))) if run else ""
        except TokenizerError:
            return REPLACEMENT * len(run)

    # The files

    def _run(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            # A panic in the Rust library arrives as a BaseException that only its name tells from a real exit.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = " ".join(str(error).split())[:300]
            raise TokenizerError(f"{self._path} is not a usable tokenizer: {self.unmark(reason)}") from None

    def _read_configs(self, directory: Path) -> None:
        try:
            config = _optional(directory / "tokenizer_config.json")
            generation = _optional(directory / "generation_config.json")
        except ValueError as error:
            raise TokenizerError(str(error)) from None
        self.special_variables = {}
        for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
            value = config.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                self.special_variables[name] = text
        eos = generation.get("eos_token_id")
        if eos is None:
            eos = self._backend.token_to_id(self.mark(self.special_variables.get("eos_token", "")))
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not all(type(token_id) is int and 0 <= token_id < 1 << 31 for token_id in ids):
            raise TokenizerError(
                f"{directory / 'generation_config.json'}: eos_token_id must be one or a list of token ids, got {eos!r}"
            )
        self.eos_token_ids = tuple(dict.fromkeys(ids))


def _optional(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return {}


def _template_text(directory: Path, file: Path | None) -> str:
    """Of templates that cannot be read none: whoever renders with them says what is wrong."""
    try:
        return "\n".join(checkpoint_templates(directory)[1].values()) if file is None else template_file(file)
    except (OSError, ValueError, RecursionError):
        return ""


def _unicode(text: str) -> str:
    """`text` without lone surrogates, which JSON lets through and which are not Unicode text."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
