"""The process in which the grammars of strangers are checked: `python -m …grammar_child FD SECONDS BYTES`.

A few lines of JSON schema can ask for years of work or overflow the stack, and a compiler cannot be interrupted: here
the kernel ends the process by an alarm, and refuses it memory beyond a limit. The stack is a part of what an engine's
threads have, so that what passes here does not overflow there. Frames hold JSON: first this side
sends {}; then each grammar, a string, gets [whether it is wrong, messages].
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import sys
import threading

from llguidance import LLMatcher

from .frames import receive, send

STACK_BYTES = 2 << 20


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end we see as end of file
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    seconds, limit = float(sys.argv[2]), int(sys.argv[3])
    with contextlib.suppress(ValueError, OSError):  # where a harder limit stands already
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    checks = threading.Thread(target=_check_all, args=(connection, seconds))
    checks.start()
    checks.join()


def _check_all(connection: socket.socket, seconds: float) -> None:
    send(connection, b"{}")
    while True:
        try:
            grammar = json.loads(receive(connection))
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = LLMatcher.validate_grammar_with_warnings(grammar, None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
