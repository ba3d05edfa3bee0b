"""A machine without a compiler is told so in one line."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import NoReturn

import pytest

from yardmaster.kernels.gpu.toolchain import check_toolchain

triton_runtime = pytest.importorskip("triton.runtime")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable"),
        subprocess.CalledProcessError(1, ["gcc", "main.c"]),
        FileNotFoundError("gcc"),
    ],
)
def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> NoReturn:
        raise error

    monkeypatch.setattr(triton_runtime, "driver", SimpleNamespace(active=SimpleNamespace(get_current_device=fail)))
    with pytest.raises(ValueError, match="apt install gcc python3-dev") as caught:
        check_toolchain()
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_here_it_compiles() -> None:
    check_toolchain()
