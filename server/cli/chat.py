"""`yardmaster chat`: a conversation in the terminal, with a model in this program or with a server that runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Annotated, Any

import typer

from .console import dim, note, plain
from .flags import EngineFlags, SamplingFlags, expand
from .talk import Local, Partner, Remote

COMMANDS = "/reset forgets the conversation, /system TEXT sets the system message, /quit leaves (or Ctrl-D)"


@expand
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|URL",
            help="A directory, OWNER/NAME on the hub, or http://… of a server. Left out: the embedded demo.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")] = None,
    reasoning_effort: Annotated[
        str | None, typer.Option(metavar="low|medium|high", help="How long a reasoning model thinks.")
    ] = None,
    hide_reasoning: Annotated[bool, typer.Option("--hide-reasoning", help="Show the answers alone.")] = False,
    served_model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="With a URL: which model; by default the server's first.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", envvar="YARDMASTER_API_KEY", help="With a URL: the server's key.", show_default=False
        ),
    ] = None,
    *,
    sampling: SamplingFlags,
    engine: EngineFlags,
) -> None:
    """Talk to a model in the terminal; answers stream, reasoning is dim.

    Ctrl-C stops an answer, or leaves at the prompt. /help lists the commands.
    """
    remote = model is not None and model.startswith(("http://", "https://"))
    if remote and (needless := engine.changed()):
        raise ValueError(f"{', '.join(needless)}: with a URL the server has its own")
    if not remote and served_model_name is not None:
        raise ValueError("--served-model-name goes with a URL")
    fields = {"max_tokens": 1024} | sampling.given()
    if reasoning_effort is not None:
        fields["reasoning_effort"] = reasoning_effort
    with ExitStack() as stack:
        partner: Partner
        if remote and model is not None:
            partner = stack.enter_context(closing(Remote(model, api_key, served_model_name, fields)))
        else:
            partner = stack.enter_context(closing(Local(engine.config(model), fields, note)))
        Conversation(partner, system, hide_reasoning).run()


class Conversation:
    """Reads lines, keeps the messages, prints the answers."""

    def __init__(self, partner: Partner, system: str | None, hide_reasoning: bool = False) -> None:
        self._partner = partner
        self._hide = hide_reasoning
        self._messages: list[dict[str, Any]] = []
        self._system = system
        self._reset()

    def run(self) -> None:
        """Until /quit or the end of the input."""
        if sys.stdin.isatty():
            import readline  # noqa: F401  arrow keys and history for input()

            note(f"Talking to {plain(self._partner.name)}. {COMMANDS}.")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            if line.startswith("/"):
                if not self._command(*line[1:].split(maxsplit=1)):
                    return
            elif line:
                self._turn(line)

    def _command(self, name: str = "", text: str = "") -> bool:
        if name in ("quit", "exit", "bye"):
            return False
        if name == "reset":
            self._reset()
            note("The conversation is forgotten.")
        elif name == "system":
            self._system = text or None
            self._reset()
            note("System message set; the conversation begins anew." if text else "No system message any more.")
        else:
            note(COMMANDS)
        return True

    def _reset(self) -> None:
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def _turn(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        answer: list[str] = []
        try:
            with closing(self._partner.reply(self._messages)) as pieces:
                self._print(pieces, answer)
        except KeyboardInterrupt:
            note("\n(stopped)")
        except ValueError as error:  # too long, or refused: the conversation stays usable
            note(f"error: {error}")
        if answer:
            self._messages.append({"role": "assistant", "content": "".join(answer)})
        else:
            self._messages.pop()

    def _print(self, pieces: Iterator[tuple[str, str]], answer: list[str]) -> None:
        thinking = False
        for reasoning, content in pieces:
            if reasoning and not self._hide:
                thinking = True
                sys.stdout.write(dim(plain(reasoning)))
            if content:
                answer.append(content)
                sys.stdout.write("\n\n" + plain(content) if thinking else plain(content))
                thinking = False
            sys.stdout.flush()
        print(flush=True)
