"""lm-evaluation-harness against a served model: its likelihoods are the model's own, its generations the API's."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra `clients`")

PAGE = Path(__file__).parent.parent.parent / "docs" / "clients.md"
CHOICES = ["coal and grain", "the signal box", "a train of forty wagons", "é 🙂"]
DOCS = [
    {"question": "What does a marshalling yard sort?", "answer": 2},
    {"question": "Where does the yardmaster sit?", "answer": 1},
    {"question": "What is in the wagons?", "answer": 0},
]
TASKS = {
    "yard_choice": """
task: yard_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: {choices}
doc_to_target: answer
metric_list:
  - metric: acc
""",
    "yard_perplexity": """
task: yard_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list:
  - metric: word_perplexity
""",
    "yard_generate": """
task: yard_generate
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["Question:", "\\n\\n"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "docs.json"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    shared = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            shared + text.replace("{choices}", json.dumps(CHOICES, ensure_ascii=False))
        )
    with pytest.MonkeyPatch.context() as patch:
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield folder


def evaluate(tasks: Path, model: str, task: str, chat: bool = False, **fields: Any) -> list[Any]:
    """The samples of one task."""
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=model,
        model_args={"model": "tiny", "max_retries": 1, "max_length": 512, **fields},
        tasks=[task],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=chat,
    )
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


def likelihood(llm: Any, ids: list[int], begin: int) -> tuple[float, bool]:
    """Of the tokens from `begin` on, and whether each was the likeliest."""
    from yardmaster import SamplingParams

    (result,) = llm.generate([ids], SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1), use_tqdm=False)
    told = result.prompt_logprobs[begin:]
    return sum(token.logprob for token in told), all(token.rank == 1 for token in told)


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[Any]:
    from yardmaster import LLM

    with LLM(checkpoint, device="cpu", num_cpu_threads=1, max_model_len=512, kv_cache_memory_bytes=16 << 20) as llm:
        yield llm


@pytest.mark.parametrize(
    "fields", [{}, {"batch_size": 5}, {"num_concurrent": 4}, {"tokenized_requests": False, "batch_size": 2}], ids=str
)
def test_likelihoods(url: str, tasks: Path, checkpoint: Path, llm: Any, fields: dict[str, Any]) -> None:
    """Equal to what the model says of the same tokens without a server, whatever shares a step with them."""
    more: Any = {"base_url": f"{url}/v1/completions", "tokenizer": str(checkpoint)}
    samples = evaluate(tasks, "local-completions", "yard_choice", **more, **fields)
    assert [sample["doc"] for sample in samples] == DOCS
    for sample in samples:
        context = f"Question: {sample['doc']['question']}\nAnswer:"
        ids = llm.tokenizer.encode(context)
        for choice, ((told, is_greedy),) in zip(CHOICES, sample["resps"], strict=True):
            whole = llm.tokenizer.encode(f"{context} {choice}")
            assert whole[: len(ids)] == ids
            true, best = likelihood(llm, whole, len(ids))
            assert told == pytest.approx(true, rel=1e-5, abs=1e-4)
            assert is_greedy == best


def test_greedy_or_not(url: str, checkpoint: Path, llm: Any) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from yardmaster import SamplingParams

    api = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model="tiny", tokenizer=str(checkpoint), batch_size=4, max_length=512
    )
    context = llm.tokenizer.encode("The yardmaster")
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    best = llm.generate([context], params, use_tqdm=False)[0].outputs[0].token_ids
    asked = [best, [*best[:-1], best[-1] ^ 1], best[:3], [best[0] ^ 1, *best[1:]]]
    told = api._loglikelihood_tokens([(("", ""), context, each) for each in asked], disable_tqdm=True)
    assert [greedy for _, greedy in told] == [True, False, True, False]
    for (value, _), each in zip(told, asked, strict=True):
        assert value == pytest.approx(likelihood(llm, context + each, len(context))[0], rel=1e-5, abs=1e-4)


def test_perplexity(url: str, tasks: Path, checkpoint: Path, llm: Any) -> None:
    more: Any = {"base_url": f"{url}/v1/completions", "tokenizer": str(checkpoint)}
    start = llm.tokenizer.special_texts["<|startoftext|>"]
    for sample in evaluate(tasks, "local-completions", "yard_perplexity", **more):
        true, _ = likelihood(llm, [start, *llm.tokenizer.encode(sample["doc"]["question"])], 1)
        ((told,),) = sample["resps"]
        assert told == pytest.approx(true, rel=1e-5)


def test_generation(url: str, tasks: Path, checkpoint: Path, llm: Any) -> None:
    from yardmaster import SamplingParams

    more: Any = {"base_url": f"{url}/v1/completions", "tokenizer": str(checkpoint), "batch_size": 2}
    for sample in evaluate(tasks, "local-completions", "yard_generate", **more):
        prompt = f"Question: {sample['doc']['question']}\nAnswer:"
        params = SamplingParams(max_tokens=12, temperature=0, stop=["Question:", "\n\n", "<|return|>"])
        (result,) = llm.generate([prompt], params, use_tqdm=False)
        assert sample["resps"] == [[result.outputs[0].text]]


def test_chat(url: str, tasks: Path) -> None:
    """The answer is what the same conversation gets by hand."""
    samples = evaluate(tasks, "local-chat-completions", "yard_generate", True, base_url=f"{url}/v1/chat/completions")
    for sample in samples:
        body = {
            "messages": [{"role": "user", "content": f"Question: {sample['doc']['question']}\nAnswer:"}],
            "max_tokens": 12,
            "temperature": 0,
            "stop": ["Question:", "\n\n"],
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
        assert sample["resps"] == [[answer["choices"][0]["message"]["content"]]]


@pytest.mark.parametrize("at", [0, 1])
def test_command_of_the_page(
    url: str, tasks: Path, checkpoint: Path, tmp_path: Path, at: int, monkeypatch: Any
) -> None:
    """As docs/clients.md has it, with a task, a model and an address of ours."""
    text = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[at]
    for old, new in (
        ("http://127.0.0.1:8000", url),
        ("tokenizer=openai/gpt-oss-20b", f"tokenizer={checkpoint}"),
        ("openai/gpt-oss-20b", "tiny"),
        ("lambada_openai", "yard_choice"),
        ("gsm8k", "yard_generate"),
        ("max_gen_toks=2000", "max_gen_toks=20"),
    ):
        text = text.replace(old, new)
    assert "8000" not in text
    words = text.replace("\\\n", " ").split()
    words += ["--include_path", str(tasks), "--output_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
    (results,) = tmp_path.rglob("results_*.json")
    assert json.loads(results.read_text())["n-samples"]["yard_choice" if at == 0 else "yard_generate"]["effective"] == 3
