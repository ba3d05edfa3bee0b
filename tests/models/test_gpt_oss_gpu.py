"""The same model code on a GPU: logits agree with the CPU's in float32."""

from pathlib import Path

import pytest
import torch

from yardmaster import LLM, SamplingParams
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

PROMPTS = [[7], list(range(30, 71)), [5, 3] * 75]
FLAGS = {"max_model_len": 512, "kv_cache_memory_bytes": 8 << 20, "dtype": "float32"}


@pytest.mark.gpu
@pytest.mark.parametrize("experts", ["bfloat16", "mxfp4"])
def test_gpu_agrees_with_cpu(tmp_path: Path, experts):
    if not torch.cuda.is_available():
        pytest.fail("pytest -m gpu needs a CUDA device")
    write_random_checkpoint(tmp_path / "model", small_gpt_oss(vocab_size=1031, sliding_window=24), experts=experts)
    params = SamplingParams(temperature=0.0, max_tokens=12, logprobs=3, ignore_eos=True)
    answers = {}
    for device in ("cpu", "cuda"):
        with LLM(tmp_path / "model", device=device, **FLAGS) as llm:
            answers[device] = [result.outputs[0] for result in llm.generate(PROMPTS, params, use_tqdm=False)]
    for cpu, cuda in zip(answers["cpu"], answers["cuda"], strict=True):
        assert cuda.token_ids == cpu.token_ids
        for a, b in zip(cuda.logprobs, cpu.logprobs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
