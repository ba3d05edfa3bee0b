"""Vocabularies and chat templates in the manner of the families that the server knows: what each writes as control.

Each file calls some of its control tokens special and, like the real ones, others not.
"""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

END = "<|endoftext|>"

QWEN = """{%- if tools %}
{{- '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- "# Tools\\nCalls go within <tool_call></tool_call> tags:\\n<tools>" }}
{%- for tool in tools %}{{ "\\n" }}{{ tool | tojson }}{% endfor %}{{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "user" or (message.role in ("system", "developer") and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- elif message.role == "assistant" %}
{%- set content = message.content or '' %}{%- set reasoning = '' %}
{%- if message.reasoning_content is string %}{%- set reasoning = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' }}{{ call.function.name }}{{ '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == "tool" %}
{{- '<|im_start|>user\\n<tool_response>\\n' }}{{ message.content }}{{ '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA = """{{- bos_token }}{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools %}{{ 'Answer with {"name": function name, "parameters": {}} or <|python_tag|>\\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ "\\n\\n" }}{% endfor %}{% endif %}{{- "<|eot_id|>" }}
{%- for message in messages %}
{%- if message.tool_calls %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "parameters": ' }}{{ call.function.arguments | tojson }}{{ '}' }}
{%- endfor %}{{ '<|eom_id|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}{{ message.content | tojson }}{{ '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

MISTRAL = """{{- bos_token }}
{%- if tools %}{{ '[AVAILABLE_TOOLS] ' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
{%- if message.role in ('system', 'developer') %}{{ '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
{%- elif message.role == 'user' %}{{ '[INST]' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS]' + (message.tool_call_id or '') + '[TOOL_CONTENT]' + message.content + '[/TOOL_RESULTS]' }}
{%- else %}
{%- if message.reasoning_content %}{{ '[THINK]' + message.reasoning_content + '[/THINK]' }}{% endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + (call.id or '') + '[ARGS]' }}
{{- call.function.arguments | tojson }}{%- endfor %}{{ eos_token }}
{%- endif %}{%- endfor %}"""

DEEPSEEK = """{{ bos_token }}{%- for message in messages if message.role in ('system', 'developer') %}
{{- message.content }}{% endfor %}
{%- if tools %}{% for tool in tools %}{{ '\\n## ' + tool.function.name + '\\n' + (tool.function.description or '') }}
{{- tool.function.parameters | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '<｜User｜>' + message.content }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content or '' %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' }}{{ '<think>' + (message.reasoning_content or '') + '</think>' }}{{ content }}
{%- if message.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}
{%- for call in message.tool_calls %}
{{- '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' }}{{ call.function.arguments | tojson }}
{{- '<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜>' }}{% endif %}{{ '<｜end▁of▁sentence｜>' }}
{%- elif message.role == 'tool' %}
{{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""

KIMI = """{%- if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_system|>tool<|im_middle|>{{ '## Return of ' + (message.tool_call_id or '') }}
{{ message.content }}<|im_end|>
{%- else %}<|im_{{ 'system' if message.role == 'developer' else message.role }}|>
{{- message.name or message.role }}<|im_middle|>
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content or '' }}
{%- if message.tool_calls %}<|tool_calls_section_begin|>
{%- for call in message.tool_calls %}<|tool_call_begin|>{{ call.id or call.function.name }}
{{- '<|tool_call_argument_begin|>' }}{{ call.function.arguments | tojson }}<|tool_call_end|>
{%- endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"""

PHI = """{%- for message in messages %}
{%- if message.role in ('system', 'developer') %}{{ '<|system|>' + message.content }}
{%- if tools %}{{ '<|tool|>' }}{{ tools | tojson }}{{ '<|/tool|>' }}{% endif %}{{ '<|end|>' }}
{%- elif message.role == 'tool' %}{{ '<|tool_response|>' + message.content + '<|end|>' }}
{%- else %}{{ '<|' + message.role + '|>' + (message.content or '') }}
{%- if message.tool_calls %}{{ '<|tool_call|>' }}{{ message.tool_calls | tojson }}{{ '<|/tool_call|>' }}{% endif %}
{{- '<|end|>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


@dataclass(frozen=True)
class Vocabulary:
    """`special`: what the file calls so. `added`: other control tokens. `words`: added tokens that are text."""

    template: str
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    words: tuple[str, ...] = ("    ", "naïve", "```", "<table>")
    model_type: str = ""
    sentencepiece: bool = False

    @property
    def controls(self) -> tuple[str, ...]:
        return (*self.special, *self.added)

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True)
        self._backend().save(str(directory / "tokenizer.json"))
        config = {"chat_template": self.template, "bos_token": self.special[1], "eos_token": self.special[0]}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return directory

    def _backend(self) -> tokenizers.Tokenizer:
        if self.sentencepiece:
            pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz<>[]/|_"]
            vocabulary = {piece: place for place, piece in enumerate(pieces)}
            backend = tokenizers.Tokenizer(
                models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
            )
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            backend.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
        else:
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            backend = tokenizers.Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in self.special])
        # As the library has it by default, and many a file after it: looked for in the normalized text.
        backend.add_tokens([AddedToken(text, special=False) for text in (*self.added, *self.words)])
        return backend


_THINK = ("<think>", "</think>")
VOCABULARIES = {
    "qwen": Vocabulary(
        QWEN,
        (END, "<|im_start|>", "<|im_end|>"),
        (*_THINK, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        model_type="qwen3_moe",
    ),
    "llama": Vocabulary(
        LLAMA,
        (
            *(END, "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
            "<|python_tag|>",
        ),
        model_type="llama",
    ),
    "mistral": Vocabulary(
        MISTRAL,
        (
            *(END, "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            *("[ARGS]", "[CALL_ID]"),
        ),
        ("[THINK]", "[/THINK]"),
        model_type="mistral",
        sentencepiece=True,
    ),
    "deepseek": Vocabulary(
        DEEPSEEK,
        (END, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        (
            *("<｜User｜>", "<｜Assistant｜>", *_THINK, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
            *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
            *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        ),
        model_type="deepseek_v3",
    ),
    "kimi": Vocabulary(
        KIMI,
        (END, "[BOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        (
            *(*_THINK, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
            *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
        ),
        model_type="kimi_k2",
    ),
    "phi": Vocabulary(
        PHI,
        (END, "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"),
        model_type="phi3",
    ),
}
