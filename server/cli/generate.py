"""`yardmaster generate`: a model without a server, over one prompt or a file of them."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ...engine.sampling_params import SamplingParams
from .console import note, plain
from .flags import EngineFlags, ModelArgument, SamplingFlags, existing_file, expand, user_path

if TYPE_CHECKING:
    from ..llm import LLM
    from ..outputs import RequestResult

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
            parser=user_path,
            metavar="FILE",
            help="A prompt a line. *.jsonl: objects with prompt, prompt_token_ids or messages, and sampling fields.",
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=user_path,
            metavar="FILE",
            help="JSON lines in the input's order; by default to stdout.",
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="A text is a user's message, not a beginning.")] = False,
    json_schema: Annotated[
        Path | None,
        typer.Option(
            "--json-schema", parser=user_path, metavar="FILE", help="Each answer is JSON that follows this schema."
        ),
    ] = None,
    *,
    sampling: SamplingFlags,
    engine: EngineFlags,
) -> None:
    """Generate offline: one prompt (--prompt) or a file of prompts (--input)."""
    if (prompt is None) == (input_file is None):
        raise ValueError("give either --prompt TEXT or --input FILE")
    given = {"max_tokens": 128} | sampling.given()
    if json_schema is not None:
        given["structured_outputs"] = {"json": _schema(existing_file(json_schema, "--json-schema"))}
    if prompt is not None:
        rows: list[dict[str, Any]] = [{"prompt": prompt}]
    elif input_file is not None:
        rows = _read(existing_file(input_file, "--input"))
    for row in rows:
        if chat and "prompt" in row:
            row["messages"] = [{"role": "user", "content": row.pop("prompt")}]
    config = engine.config(model)
    # Opened before hours of work, not after them.
    with nullcontext(sys.stdout) if output_file is None else open(output_file, "w") as file:
        from ..llm import LLM

        with LLM.of(config, note) as llm:
            results = _run(llm, rows, given)
        if prompt is not None and output_file is None:
            print(plain(results[0].outputs[0].text))
        else:
            _write(file, results)


def _schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--json-schema: {path} is not JSON ({error})") from None


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


def _run(llm: LLM, rows: list[dict[str, Any]], given: dict[str, Any]) -> list[RequestResult]:
    """Conversations and texts apart, each all at once. A row's own fields rule over flags, flags over the checkpoint's.

    Fields that are no sampling parameters (ids, notes) are the file's owner's.
    """
    params = []
    for number, row in enumerate(rows, 1):
        own = {field: row[field] for field in SamplingParams.__struct_fields__ if field in row}
        try:
            params.append(llm.default_sampling_params(**given | own))
        except ValueError as error:
            raise ValueError(f"prompt {number}: {error}") from None
    results: dict[int, RequestResult] = {}
    talks = [i for i, row in enumerate(rows) if "messages" in row]
    texts = [i for i, row in enumerate(rows) if "messages" not in row]
    if talks:
        answers = llm.chat([rows[i]["messages"] for i in talks], [params[i] for i in talks])
        results |= dict(zip(talks, answers, strict=True))
    if texts:
        answers = llm.generate([rows[i] for i in texts], [params[i] for i in texts])
        results |= dict(zip(texts, answers, strict=True))
    return [results[i] for i in range(len(rows))]


def _write(file: TextIO, results: list[RequestResult]) -> None:
    for result in results:
        output = result.outputs[0]
        line = {
            "text": output.text,
            "reasoning": output.reasoning or None,
            "finish_reason": output.finish_reason,
            "prompt_tokens": len(result.prompt_token_ids),
            "completion_tokens": len(output.token_ids),
        }
        print(
            json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False), file=file
        )
