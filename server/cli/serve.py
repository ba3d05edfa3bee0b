"""`yardmaster serve`: flags and the config file to one EngineConfig and one HttpConfig; the rest is the front end's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ...engine.config import EngineConfig
from ..batch.config import BatchConfig
from ..http.config import HttpConfig
from .config_file import read_config
from .console import note
from .elsewhere_flags import ElsewhereFlags
from .flags import MEMORY, EngineFlags, ModelArgument, api_names, existing_file, expand, user_path

HTTP = "HTTP"
_LEVELS = ("debug", "info", "warning", "error")


def _load(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        context.default_map = read_config(path, context.command.params)
    return path


def _batch_config(directory: Path | None, max_file_bytes: int | None) -> BatchConfig | None:
    if directory is None:
        if max_file_bytes is not None:
            raise ValueError("--max-batch-file-bytes goes with --batch-dir")
        return None
    limits = {} if max_file_bytes is None else {"max_file_bytes": max_file_bytes}
    return BatchConfig(str(directory.absolute()), **limits)


def _named(context: typer.Context, model: str | None, flag: str | None) -> str | None:
    """MODEL, from its place or from --model. What was typed rules over the config file. Raises ValueError."""
    if model is None or flag is None:
        return flag if model is None else model
    sources = [context.get_parameter_source(name) for name in ("model", "model_flag")]
    typed = [source is not None and source.name == "COMMANDLINE" for source in sources]
    if typed[0] == typed[1]:
        raise ValueError(f"MODEL is given twice, as {model!r} and by --model {flag!r}: give one of them")
    return model if typed[0] else flag


@expand
def serve(
    context: typer.Context,
    model: ModelArgument = None,
    model_flag: Annotated[str | None, typer.Option("--model", "--model-path", hidden=True)] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="YAML file whose keys are flags; a flag on the command line wins.",
            is_eager=True,
            callback=_load,
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(metavar="|".join(_LEVELS), help="What the server logs.")] = "warning",
    *,
    engine: EngineFlags,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; one that other machines reach needs --api-key, --keys-file or --no-auth.",
            rich_help_panel=HTTP,
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", rich_help_panel=HTTP)] = 8000,
    api_servers: Annotated[
        int,
        typer.Option(
            "--api-servers",
            "--api-server-count",
            metavar="INT",
            help="Front-end processes behind the port, for more requests than one core can parse and stream.",
            rich_help_panel=HTTP,
        ),
    ] = 1,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="YARDMASTER_API_KEY",
            help="Clients must show one of these keys; may be repeated. In the variable: separated by spaces.",
            show_default=False,
            rich_help_panel=HTTP,
        ),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="YAML or JSON: keys with names, limits and weights, instead of --api-key. SIGHUP reads it again.",
            rich_help_panel=HTTP,
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve without a key, whoever can reach --host.", rich_help_panel=HTTP)
    ] = False,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name in the API, instead of MODEL; may be repeated, answers carry the first.",
            show_default=False,
            rich_help_panel=HTTP,
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="Jinja template that makes prompts of conversations, instead of the checkpoint's own way.",
            rich_help_panel=HTTP,
        ),
    ] = None,
    tool_call_parser: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Form of a model's calls, by vLLM's names (hermes, mistral, …); by default as it looks.",
            rich_help_panel=HTTP,
        ),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Form of its reasoning (qwen3, deepseek_r1, …), likewise.", rich_help_panel=HTTP
        ),
    ] = None,
    batch_dir: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="DIR",
            help="Keep files and batches there, and offer /v1/files and /v1/batches.",
            rich_help_panel=HTTP,
        ),
    ] = None,
    max_batch_file_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            help=f"Largest file for a batch, with --batch-dir; by default {BatchConfig('-').max_file_bytes}.",
            show_default=False,
            rich_help_panel=HTTP,
        ),
    ] = None,
    response_store: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|off",
            help="Where /v1/responses keeps what has not `store` false; by default in the user's state folder.",
            show_default=False,
            rich_help_panel=HTTP,
        ),
    ] = None,
    max_waiting: Annotated[
        int,
        typer.Option(metavar="INT", help="Requests that may queue, per group; more get a 503.", rich_help_panel=MEMORY),
    ] = EngineConfig(model="-").scheduler.max_waiting,
    elsewhere: ElsewhereFlags,
) -> None:
    """Serve a model behind the OpenAI HTTP API.

    With several ranks (--tp, --dp) their processes are started too; under torchrun, its processes are the ranks.
    """
    elsewhere.settle(note)
    model = _named(context, model, model_flag)
    if log_level not in _LEVELS:
        raise ValueError(f"--log-level must be one of {', '.join(_LEVELS)}, got {log_level!r}")
    http = HttpConfig(
        served_model_names=api_names(model, served_model_name),
        host=host,
        port=port,
        api_servers=api_servers,
        api_keys=tuple(api_key or ()),
        keys_file=None if keys_file is None else str(existing_file(keys_file, "--keys-file")),
        no_auth=no_auth,
        chat_template=None if chat_template is None else str(existing_file(chat_template, "--chat-template")),
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
        batch=_batch_config(batch_dir, max_batch_file_bytes),
    )
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")

    from ..fair.key_file import read_keys
    from ..responses.store import store_path
    from ..text.formats.registry import check_parser_names

    # What can be wrong without the model is said before it is fetched.
    check_parser_names(tool_call_parser, reasoning_parser)
    if http.keys_file is not None:
        read_keys(Path(http.keys_file))
    http = replace(http, response_store=store_path(response_store))

    from .. import front
    from ..launch import World
    from ..make_service import check_parsers

    world = World.of_environment()
    if world is None:  # else the front end may be another machine's
        front.listen(http).close()
    settings = engine.config(model, max_waiting=max_waiting, world=world)
    check_parsers(settings, http)
    raise typer.Exit(front.serve(settings, http))
