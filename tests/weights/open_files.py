"""What this process holds open of a folder."""

from __future__ import annotations

import os
from pathlib import Path


def open_files(folder: Path) -> list[str]:
    """The files under `folder` that an open descriptor leads to."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # closed meanwhile, or the listing's own
            continue
    return [path for path in found if Path(path).is_relative_to(folder.resolve())]
