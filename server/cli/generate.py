"""`yardmaster generate`: a model without a server, over one prompt or a file of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from .console import note, plain
from .flags import EngineFlags, ModelArgument, SamplingFlags, existing_file, expand

_PROMPT_FIELDS = ("prompt", "prompt_token_ids", "messages")


@expand
def generate(
    model: ModelArgument = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="One prompt; the answer goes to stdout.")
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="A prompt a line. *.jsonl: objects with prompt, prompt_token_ids or messages, and sampling fields.",
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON lines, in the input's order.", show_default="stdout"),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="A text is a user's message, not a beginning.")] = False,
    *,
    sampling: SamplingFlags,
    engine: EngineFlags,
) -> None:
    """Generate offline: one prompt (--prompt) or a file of prompts (--input)."""
    if (prompt is None) == (input_file is None):
        raise ValueError("give either --prompt TEXT or --input FILE")
    given = {"max_tokens": 128} | sampling.given()
    if prompt is not None:
        rows = [{"prompt": prompt}]
    else:
        rows = _read(existing_file(input_file, "--input") if input_file else Path())
    for row in rows:
        if chat and "prompt" in row:
            row["messages"] = [{"role": "user", "content": row.pop("prompt")}]
    config = engine.config(model)

    from ..llm import LLM

    with LLM.from_config(config, note) as llm:
        requests = [_request(i, row, llm.default_sampling_params, given) for i, row in enumerate(rows)]
        results = llm.run_requests(requests)
    if prompt is not None and output_file is None:
        print(plain(results[0].outputs[0].text))
        return
    if output_file is None:
        _write(sys.stdout, results)
    else:
        with open(output_file, "w") as file:
            _write(file, results)


def _read(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError that names the line."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--input: {path} is not UTF-8 text") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix not in (".jsonl", ".ndjson"):
        return [{"prompt": line} for _, line in numbered]
    rows = []
    for number, line in numbered:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or sum(name in row for name in _PROMPT_FIELDS) != 1:
            raise ValueError(f"{path}, line {number}: must be an object with one of {', '.join(_PROMPT_FIELDS)}")
        rows.append(row)
    return rows


def _request(index: int, row: dict[str, Any], defaults: Any, given: dict[str, Any]) -> Any:
    """Row over flags over the checkpoint's defaults."""
    import msgspec

    from ...engine.sampling_params import SamplingParams

    name = next(name for name in _PROMPT_FIELDS if name in row)
    known = {field for field in SamplingParams.__struct_fields__ if field in row}
    try:
        own = msgspec.to_builtins(msgspec.convert({field: row[field] for field in known}, SamplingParams))
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"prompt {index + 1}: {error}") from None
    unknown = row.keys() - known - {name}
    del unknown  # ids and notes of the file's owner
    return name, row[name], defaults(**given | own)


def _write(file: TextIO, results: list[Any]) -> None:
    for result in results:
        output = result.outputs[0]
        line = {
            "text": output.text,
            "reasoning": output.reasoning or None,
            "finish_reason": output.finish_reason,
            "prompt_tokens": len(result.prompt_token_ids),
            "completion_tokens": len(output.token_ids),
        }
        print(json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False), file=file)
