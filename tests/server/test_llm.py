"""`LLM` and `yardmaster generate` on a tiny random model: no server, one rank; several in the slow run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

import yardmaster
from yardmaster import LLM, SamplingParams
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.server import engine_settings
from yardmaster.server.cli import main as cli
from yardmaster.server.cli.console import plain

FLAGS: dict[str, Any] = {"device": "cpu", "max_model_len": 256, "kv_cache_memory_bytes": 8 << 20, "max_num_seqs": 4}
GREEDY = SamplingParams(temperature=0, max_tokens=6)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llm") / "tiny"
    shape = {"hidden_size": 32, "num_layers": 2, "head_dim": 16, "num_heads": 4, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=512, **shape))
    return directory


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, **FLAGS) as model:
        yield model


def test_prompts_in_every_form_and_more_than_run_at_once(llm: LLM) -> None:
    text = "the yard"
    ids = llm.tokenizer.encode(text)
    prompts: list[Any] = [text, ids, {"prompt": text}, {"prompt_token_ids": ids}, "another"] * 2
    results = llm.generate(prompts, GREEDY, use_tqdm=False)
    alone = llm.generate(text, GREEDY)[0]
    assert alone.prompt == text
    assert alone.prompt_token_ids == ids
    assert llm.generate(ids, GREEDY)[0].outputs == alone.outputs
    for prompt, result in zip(prompts, results, strict=True):
        assert (result.outputs == alone.outputs) == (prompt != "another")
        output = result.outputs[0]
        assert output.text == llm.tokenizer.decode(output.token_ids)
        assert output.finish_reason == "length"
        assert len(output.token_ids) == 6
        assert output.logprobs is None


def test_one_sampling_params_a_prompt(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, logprobs=2, prompt_logprobs=1, seed=n, ignore_eos=True) for n in (1, 3, 5)]
    results = llm.generate(["a b c"] * 3, params)
    for n, result in zip((1, 3, 5), results, strict=True):
        output = result.outputs[0]
        assert len(output.token_ids) == n
        assert output.logprobs is not None
        assert [entry.token_id for entry in output.logprobs] == output.token_ids
        assert result.prompt_logprobs is not None
        assert len(result.prompt_logprobs) == len(result.prompt_token_ids)
    alone = llm.generate("a b c", params[2])[0].outputs[0]
    assert alone.token_ids == results[2].outputs[0].token_ids


def test_stop_strings_end_an_answer(llm: LLM) -> None:
    whole = llm.generate("hello", GREEDY)[0].outputs[0].text
    stop = whole[2:4]
    output = llm.generate("hello", SamplingParams(temperature=0, max_tokens=6, stop=(stop,)))[0].outputs[0]
    assert output.text == whole[: whole.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)


def test_chat_and_its_stream_say_the_same(llm: LLM) -> None:
    params = SamplingParams(temperature=1, max_tokens=12, seed=3)
    one, two = llm.chat([HELLO, HELLO], params)
    assert one.prompt is not None
    assert one.prompt.endswith("<|start|>user<|message|>hello<|end|><|start|>assistant")
    assert one.outputs == two.outputs
    pieces = list(llm.stream_chat(HELLO, params))
    assert "".join(piece.text for piece in pieces) == one.outputs[0].text
    assert "".join(piece.reasoning for piece in pieces) == one.outputs[0].reasoning
    assert pieces[-1].finish_reason == one.outputs[0].finish_reason
    assert llm.chat(HELLO, params, chat_template_kwargs={"reasoning_effort": "high"})[0].prompt != one.prompt


def test_a_stream_that_is_left_early_frees_the_engine(llm: LLM) -> None:
    for _ in range(FLAGS["max_num_seqs"] + 3):
        stream = llm.stream_chat(HELLO, SamplingParams(max_tokens=150, ignore_eos=True))
        next(stream)
        stream.close()
    assert llm.generate("after", SamplingParams(max_tokens=6, ignore_eos=True))[0].outputs[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompts", "params", "words"),
    [
        ([[512]], GREEDY, r"prompts\[0\] must be a text or token ids from 0 to 511"),
        (["fine", [-1]], GREEDY, r"prompts\[1\]"),
        ([["a"]], GREEDY, r"prompts\[0\]"),
        ([[True]], GREEDY, r"prompts\[0\]"),
        (["fine", ""], GREEDY, r"prompts\[1\] has 0 tokens"),
        ([[1] * 256], GREEDY, r"prompts\[0\] has 256 tokens; it may have 1 to 255"),
        (["a", "b"], [GREEDY], "2 prompts need as many"),
    ],
)
def test_what_cannot_be_served_is_named(llm: LLM, prompts: Any, params: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        llm.generate(prompts, params)


def test_nothing_to_do(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []
    assert llm.chat([], GREEDY) == []


def test_an_answer_ends_where_the_context_does(llm: LLM) -> None:
    output = llm.generate([[5] * 250], SamplingParams(max_tokens=100, ignore_eos=True))[0].outputs[0]
    assert output.finish_reason == "length"
    assert len(output.token_ids) == 6


def test_inside_a_running_event_loop(llm: LLM) -> None:
    async def main() -> Any:
        return llm.generate("the yard", GREEDY)

    assert asyncio.run(main())[0].outputs == llm.generate("the yard", GREEDY)[0].outputs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"dtype": "int3"}, "--dtype"),
        ({"tensor_parallel_size": 0}, "--tensor-parallel-size"),
        ({"max_num_seqs": 0}, "--max-num-seqs"),
        ({"max_model_len": 1 << 22}, "--max-model-len"),
        ({"kv_cache_memory_bytes": 1000}, "kv-cache-memory-bytes"),
    ],
)
def test_flags_that_cannot_be(checkpoint: Path, flags: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=words):
        LLM(checkpoint, **{**FLAGS, **flags})


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        LLM(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config\.json"):
        LLM(tmp_path)
    with pytest.raises(ValueError, match="'tensor_paralel'; did you mean 'tensor_parallel_size'"):
        LLM(tmp_path, tensor_paralel=2)


def test_close_twice_and_the_package(checkpoint: Path) -> None:
    assert yardmaster.LLM is LLM
    assert yardmaster.SamplingParams is SamplingParams
    model = LLM(str(checkpoint), **FLAGS)
    model.close()
    model.close()


def rendering() -> set[int]:
    """The ids of the processes that this one started for chat templates."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none either
            if any("render_child" in word for word in child.cmdline()):
                found.add(child.pid)
    return found


def test_a_start_that_fails_leaves_no_process_behind(checkpoint: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(checkpoint, tmp_path / "templated")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = tokenizers.Tokenizer(models.BPE({character: at for at, character in enumerate(alphabet)}, []))
    bytewise.save(str(directory / "tokenizer.json"))  # none of Harmony's tokens: the template is what conversations use
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    others = rendering()  # of which some may end with what holds them, at any time
    model = LLM(directory, **FLAGS)
    with model:
        assert len(rendering() - others) == 1
    assert rendering() <= others
    with pytest.raises((ValueError, RuntimeError), match="kv-cache-memory-bytes") as caught:
        LLM(directory, **{**FLAGS, "kv_cache_memory_bytes": 1000})
    assert rendering() <= others
    assert caught.tb is not None  # it holds on to the model that did not start: nothing but `close` ended its process


ENGINE = ["--device", "cpu", "--max-model-len", "256", "--kv-cache-memory-bytes", str(8 << 20)]


def test_generate_one_prompt(checkpoint: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--temperature", "0", "--max-tokens", "6"]
    assert cli.run(["generate", str(checkpoint), "-p", "the yard", *flags, *ENGINE]) == 0
    want = llm.generate("the yard", GREEDY)[0].outputs[0].text
    assert capsys.readouterr().out == plain(want) + "\n"


def test_generate_by_a_schema(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}')
    schema.write_text(json.dumps(json.loads(schema.read_text()) | {"additionalProperties": False}))
    command = ["generate", str(checkpoint), "-p", "the yard", "--json-schema", str(schema), *ENGINE]
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["a"] in (1, 2)
    for text, words in (('{"not": {}}', "structured_outputs"), ("{", "is not JSON")):
        schema.write_text(text)
        assert cli.run(command) != 0
        assert words in capsys.readouterr().err


def test_generate_a_file(checkpoint: Path, llm: LLM, tmp_path: Path) -> None:
    rows = [
        {"prompt": "the yard", "id": 7},
        {"messages": HELLO, "max_tokens": 3, "temperature": 1.0, "seed": 5},
        {"prompt_token_ids": [1, 2, 3], "logit_bias": {"9": 100.0}, "max_tokens": 2},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    flags = ["--temperature", "0", "--max-tokens", "6"]
    assert cli.run(["generate", str(checkpoint), "-i", str(source), "-o", str(target), *flags, *ENGINE]) == 0
    first, second, third = map(json.loads, target.read_text().splitlines())
    assert first["text"] == llm.generate("the yard", GREEDY)[0].outputs[0].text
    chat = llm.chat(HELLO, SamplingParams(max_tokens=3, temperature=1.0, seed=5))[0].outputs[0]
    assert (second["text"], second["completion_tokens"]) == (chat.text, 3)
    assert third["text"] == llm.tokenizer.decode([9, 9])
    assert third["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: must be an object"),
        ("{}", "line 2: must be an object"),
        ('{"prompt": "a", "messages": []}', "line 2: must be an object"),
        ('{"prompt": "a", "temperature": "hot"}', "prompt 2: "),
        ('{"prompt": "a", "top_p": 7}', "prompt 2: top_p"),
        ('{"prompt": [9999]}', r"prompts[1]"),
        ('{"prompt": 7}', r"prompts[1]"),
        ('{"prompt_token_ids": "abc"}', r"prompts[1]"),
        ('{"messages": "hi"}', r"messages[0]: messages must be a list"),
        ('{"messages": [1]}', r"messages[0]: a message must be an object"),
    ],
)
def test_generate_names_the_bad_line(
    checkpoint: Path, line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    assert cli.run(["generate", str(checkpoint), "-i", str(source), *ENGINE]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error


def test_an_output_that_cannot_be_written_is_said_first(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", str(checkpoint), "-p", "a", "-o", "/nowhere/out.jsonl", *ENGINE]) == 1
    assert capsys.readouterr().err == "error: /nowhere/out.jsonl: No such file or directory\n"


def test_a_program_with_a_model_needs_no_web_framework() -> None:
    script = (
        "import sys, yardmaster; yardmaster.LLM; "
        "print([m for m in ('torch', 'fastapi', 'starlette', 'uvicorn', 'pydantic', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_a_model_the_embedded_one_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "-p", "Spell the word yard.", "--chat", *ENGINE]) == 0
    assert capsys.readouterr().out == "y-a-r-d\n"


def test_an_installation_without_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_settings, "__file__", str(tmp_path / "server" / "engine_settings.py"))
    assert cli.run(["generate", "-p", "hello", *ENGINE]) == 2
    assert capsys.readouterr().err == (
        f"error: the embedded demo model is not in {tmp_path}/demo/checkpoint: install the package again, "
        "or name a MODEL\n"
    )


@pytest.mark.slow
def test_several_ranks_say_the_same(checkpoint: Path, llm: LLM) -> None:
    prompts = ["the yard", "another", "more"]
    want = [result.outputs for result in llm.generate(prompts, GREEDY)]
    with LLM(checkpoint, tensor_parallel_size=2, data_parallel_size=2, **FLAGS) as several:
        assert [result.outputs for result in several.generate(prompts, GREEDY)] == want
