"""The same requests on every layout of ranks, in real processes: equal greedy tokens, close log-probabilities."""

import pytest

from yardmaster import LLM, SamplingParams
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

LAYOUTS = {
    "tp2": {"tensor_parallel_size": 2},
    "ep2": {"data_parallel_size": 2},
    "tp2 ep1": {"tensor_parallel_size": 2, "expert_parallel_size": 1},
    "tp2 dp2": {"tensor_parallel_size": 2, "data_parallel_size": 2},
    "dp4": {"data_parallel_size": 4},
    "tp2 ahead": {"tensor_parallel_size": 2, "async_scheduling": True},
    "tp2 dp2 ahead": {"tensor_parallel_size": 2, "data_parallel_size": 2, "async_scheduling": True},
    "tp2 dp2 ep2": {"tensor_parallel_size": 2, "data_parallel_size": 2, "expert_parallel_size": 2},
}
PROMPTS = [[7], list(range(30, 71)), [5, 3] * 75, [11, 12, 13], list(range(200, 209))]
PARAMS = SamplingParams(temperature=0.0, max_tokens=12, logprobs=3, ignore_eos=True)
SAMPLED = SamplingParams(temperature=1.0, seed=42, max_tokens=12, ignore_eos=True)
FLAGS = {"device": "cpu", "max_model_len": 512, "kv_cache_memory_bytes": 8 << 20, "num_cpu_threads": 1}


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("layouts") / request.param
    # five experts over four ranks and three width blocks over two: neither divides
    sizes = {"num_experts": 5, "expert_width": 96, "sliding_window": 24, "vocab_size": 1031}
    config = small_gpt_oss(num_layers=4, dense_layers=(2,), dense_width=45, **sizes)
    write_random_checkpoint(directory, config, experts=request.param)
    with LLM(directory, **FLAGS) as llm:
        return directory, _answers(llm)


def _answers(llm):
    together = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    # alone: with several groups, all but one idle
    alone = llm.generate([PROMPTS[1]], PARAMS, use_tqdm=False)
    sampled = llm.generate(PROMPTS, SAMPLED, use_tqdm=False)
    return [result.outputs[0] for result in (*together, *alone, *sampled)]


# starting the processes is what costs: plain weights on the two layouts that cut experts, packed ones on all
CASES = [("bfloat16", "tp2 ep1"), ("bfloat16", "tp2 dp2 ep2"), *(("mxfp4", layout) for layout in LAYOUTS)]


@pytest.mark.parametrize(("model", "layout"), CASES, indirect=["model"], scope="module")
def test_layouts_agree_with_one_rank(model, layout):
    directory, want = model
    with LLM(directory, **FLAGS, **LAYOUTS[layout]) as llm:
        got = _answers(llm)
    for mine, one_rank in zip(got, want, strict=True):
        assert mine.token_ids == one_rank.token_ids
        for a, b in zip(mine.logprobs or [], one_rank.logprobs or [], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert dict(a.top) == pytest.approx(dict(b.top), abs=1e-4)
