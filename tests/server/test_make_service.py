"""From a checkpoint's files to the text side of a server, for a model that speaks Harmony."""

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


def test_a_harmony_model_has_its_encoder_unless_a_template_is_given(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 2, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(tmp_path / "tiny", small_gpt_oss(vocab_size=512, **shape))
    engine, client = EngineConfig(model=str(tmp_path / "tiny")), Deaf()
    own = make_service(engine, HttpConfig(("m",)), client)  # type: ignore[arg-type]
    assert own.chat is not None
    assert own.template is None
    file = tmp_path / "mine.jinja"
    file.write_text("Say: {{ messages[0].content }}")
    given = make_service(engine, HttpConfig(("m",), chat_template=str(file)), client)  # type: ignore[arg-type]
    assert given.chat is None
    assert given.template is not None
    assert given.template.render([{"role": "user", "content": "x"}]).text == "Say: x"
    given.template.close()
    for text in ("{% broken", "\udcff"):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=r"mine\.jinja"):
            make_service(engine, HttpConfig(("m",), chat_template=str(file)), client)  # type: ignore[arg-type]
