"""From a checkpoint's files to the text side of a server: tokenizer, template or encoder, formats, metrics."""

from __future__ import annotations

from pathlib import Path

from .. import __version__
from ..engine.client import EngineClient
from ..engine.config import EngineConfig
from ..models.hf_config import load_config
from .http.config import HttpConfig
from .http.service import Service
from .metrics import Metrics
from .text.formats.registry import ChatFormat, chat_format, check_parser_names
from .text.generation_config import sampling_defaults
from .text.harmony.conversation import HarmonyChat
from .text.harmony.encoder import HarmonyEncoder
from .text.harmony.tokens import end_tokens, is_harmony
from .text.template import ChatTemplate
from .text.tokenizer import Tokenizer


def check_parsers(engine: EngineConfig, http: HttpConfig) -> None:
    """Before ranks are started: that the checkpoint goes with --tool-call-parser and --reasoning-parser, where given.

    Raises ValueError, one line that names the flag or the file.
    """
    if http.tool_call_parser is not None or http.reasoning_parser is not None:
        harmony = is_harmony(Tokenizer(Path(engine.model)))
        check_parser_names(http.tool_call_parser, http.reasoning_parser, harmony)


def make_service(
    engine: EngineConfig, http: HttpConfig, client: EngineClient, metrics: Metrics | None = None
) -> Service:
    """`metrics` if they are not to be those of this process alone. Raises ValueError, one line that names the file."""
    directory = Path(engine.model)
    model = load_config(directory)
    own_template = None if http.chat_template is None else Path(http.chat_template)
    tokenizer = Tokenizer(directory, own_template)
    template, chat = None, None
    if own_template is not None:
        template = ChatTemplate.from_file(own_template, tokenizer)
    elif is_harmony(tokenizer):  # the format's own encoder: the checkpoint's template is but a sketch of it
        chat = HarmonyChat(HarmonyEncoder(tokenizer))
    else:
        template = ChatTemplate.load(directory, tokenizer)
    format = ChatFormat()
    if not is_harmony(tokenizer):
        source = template.text if template else ""
        format = chat_format(tokenizer, source, model.family, http.tool_call_parser, http.reasoning_parser)
    else:
        check_parser_names(http.tool_call_parser, http.reasoning_parser, harmony=True)
    metrics = metrics or Metrics(http.served_model_names[0], __version__)
    metrics.watch(client)
    return Service(
        client=client,
        tokenizer=tokenizer,
        template=template,
        chat=chat,
        format=format,
        metrics=metrics,
        vocab_size=model.vocab_size,
        eos_token_ids=end_tokens(tokenizer, model.eos_token_ids or tokenizer.eos_token_ids),
        defaults=sampling_defaults(directory),
    )
