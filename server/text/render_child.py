"""The process in which chat templates run: `python -m …render_child FD`. It gets nothing else than a socket.

A template is code from a checkpoint. Here it may loop, recurse, multiply strings and nest lists as it likes: the kernel
ends this process by an alarm when a rendering takes too long, and refuses it memory beyond a limit. Frames hold a
JSON object. First {sources, secrets, seconds, bytes} -> {} or {error}; then any number of
{name, variables} -> {text} or {error}.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import sys
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from .frames import receive, send
from .sandbox import Refused, compile_template

MAX_TEXT = 64 << 20  # characters


def _error(error: BaseException) -> dict[str, str]:
    match error:
        case Refused():
            return {"error": f"the chat template refused the messages: {error.message}"}
        case TemplateSyntaxError():
            return {"error": f"the chat template is malformed: {error.message} (line {error.lineno})"}
        case MemoryError():
            return {"error": "the chat template takes too much memory"}
        case RecursionError():
            return {"error": "the chat template or the messages are nested too deeply"}
    return {"error": f"the chat template failed: {error or type(error).__name__}"}


def _compile(request: dict[str, Any]) -> dict[str, Template]:
    return {name: compile_template(source, request["secrets"]) for name, source in request["sources"].items()}


def _render(templates: dict[str, Template], request: dict[str, Any]) -> dict[str, str]:
    text = templates[request["name"]].render(request["variables"])
    if len(text) > MAX_TEXT:
        raise TemplateError(f"its text has more than {MAX_TEXT} characters")
    return {"text": text}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end we see as end of file
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    templates: dict[str, Template] = {}
    seconds = 10.0
    while True:
        try:
            frame = receive(connection)
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer: dict[str, str] = {}
        try:
            request = json.loads(frame)
            del frame
            if "sources" in request:
                seconds = request["seconds"]
                with contextlib.suppress(ValueError, OSError):  # where a harder limit stands already
                    resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
                    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                templates = _compile(request)
            else:
                answer = _render(templates, request)
            data = json.dumps(answer).encode()
        except Exception as error:  # a template can raise anything
            data = json.dumps(_error(error)).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, data)


if __name__ == "__main__":
    main()
