"""Requests whose grammar is being compiled: they enter the scheduler when it is ready, in whatever order that is."""

from __future__ import annotations

import time
from concurrent.futures import Future

from .grammar import COMPILE_SECONDS, Grammar, GrammarCompiler, GrammarError
from .messages import RequestOutput, Submit


class Compiling:
    """Pending requests of one leader. `compiler` None: there are no grammars here."""

    def __init__(self, compiler: GrammarCompiler | None) -> None:
        self._compiler = compiler
        self._pending: dict[str, tuple[Submit, Future[Grammar], float]] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def start(self, message: Submit) -> None:
        """A request that has a grammar."""
        future: Future[Grammar]
        if self._compiler is None or message.grammar is None:
            future = Future()
            future.set_exception(GrammarError("this engine takes no grammars"))
        else:
            future = self._compiler.start(message.grammar)
        self._pending[message.request_id] = message, future, time.monotonic() + COMPILE_SECONDS

    def abort(self, request_id: str) -> bool:
        """Whether it was here."""
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending[1].cancel()
        return pending is not None

    def ready(self) -> list[tuple[Submit, Grammar | Exception]]:
        """Those whose grammar is there, or cannot be."""
        now = time.monotonic()
        answers: list[tuple[Submit, Grammar | Exception]] = []
        for request_id, (message, future, deadline) in list(self._pending.items()):
            if future.done():
                answers.append((message, future.exception() or future.result()))  # type: ignore[arg-type]
            elif now > deadline:
                future.cancel()
                answers.append(
                    (message, GrammarError(f"the grammar took more than {COMPILE_SECONDS:.0f} s to compile"))
                )
            else:
                continue
            del self._pending[request_id]
        return answers


def refusal(message: Submit, error: Exception) -> RequestOutput:
    return RequestOutput(
        request_id=message.request_id, finish_reason="error", error=str(error), refused=isinstance(error, ValueError)
    )
