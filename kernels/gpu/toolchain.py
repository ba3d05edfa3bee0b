"""What Triton needs of a machine beside a GPU: it compiles its way to the driver from C, once."""

from __future__ import annotations

import subprocess


def check_toolchain() -> None:
    """Let Triton build that now, or find it built. Raises ValueError, with the mend, when it cannot."""
    from triton.runtime import driver

    try:
        driver.active.get_current_device()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"Triton cannot compile for this GPU ({' '.join(str(error).split())[:300]}): it needs a C compiler and "
            "Python's headers (on Debian: apt install gcc python3-dev)"
        ) from error
