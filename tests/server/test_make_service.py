"""From a checkpoint's files to the text side of a server: which parsers a model that speaks Harmony takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.make_service import check_parsers, make_service


class Deaf:
    """A client that only has to be there."""

    def on_stats(self, listener: Any) -> None: ...

    def on_report(self, listener: Any) -> None: ...


def test_the_names_that_harmony_has(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 2, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(tmp_path / "tiny", small_gpt_oss(vocab_size=512, **shape))
    engine = EngineConfig(model=str(tmp_path / "tiny"))
    for tools, reasoning in (("openai", "openai_gptoss"), ("gpt-oss", "gpt-oss"), (None, "gpt-oss"), (None, None)):
        http = HttpConfig(("m",), tool_call_parser=tools, reasoning_parser=reasoning)
        check_parsers(engine, http)
        assert make_service(engine, http, Deaf()).chat is not None  # type: ignore[arg-type]
    for wrong in ({"tool_call_parser": "hermes"}, {"reasoning_parser": "openai"}):
        for check in (check_parsers, lambda *given: make_service(*given, Deaf())):
            with pytest.raises(ValueError, match="or gpt-oss for this model, which speaks Harmony"):
                check(engine, HttpConfig(("m",), **wrong))
