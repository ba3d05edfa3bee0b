"""What commands print with: text for people on stderr, results on stdout, nothing that could drive a terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

UNSAFE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class CommandError(RuntimeError):
    """The command was right and still failed (a server that does not answer, a full disk): exit code 1."""


def plain(text: str) -> str:
    """`text` from a model or a server without control characters: an escape sequence could rewrite the terminal."""
    return text.translate(UNSAFE)


def dim(text: str) -> str:
    """`text` for stdout, faint where that is a terminal."""
    faint = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return f"\x1b[2m{text}\x1b[0m" if faint else text


def note(line: str) -> None:
    """A line for the person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def progress_bar(quiet: bool = False, unit: str = "bytes") -> Any:
    """A rich `Progress` on stderr; `unit` "bytes" shows sizes and speed, anything else counts. Nothing if `quiet`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )


def close_stdout() -> None:
    """After a broken pipe: nothing more may be flushed there, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
