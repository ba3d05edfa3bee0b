"""Flags that users of vLLM and SGLang type, and that are none here: what asks for how it is here anyway is taken.

`FACTS` says of each how it is here, in words that both end a note and say why something is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """`same`: values that ask for just this. A flag without a value has True, and False for its --no- form."""

    text: str
    same: tuple[str | bool, ...] = ()
    short: str | None = None


SWITCHES: Mapping[str, Fact] = {
    "disable_custom_all_reduce": Fact("all-reduces are NCCL's or gloo's own", (True,)),
    "disable_log_requests": Fact("requests are never logged", (True,)),
    "disable_log_stats": Fact("figures stand in /metrics and are never logged", (True,)),
    "disable_uvicorn_access_log": Fact("requests are never logged", (True,)),
    "enable_auto_tool_choice": Fact("the model chooses its calls wherever a request offers functions", (True,)),
    "enable_chunked_prefill": Fact("prompts are computed in chunks beside what decodes", (True,)),
    "enable_eplb": Fact("experts stay on their ranks", (False,)),
    "enable_expert_parallel": Fact(
        "experts are spread over all ranks, or over as many as --expert-parallel-size says", (True,), "-ep"
    ),
    "enable_log_requests": Fact("requests are never logged", (False,)),
    "enable_lora": Fact("there are no adapters; merge them into the checkpoint", (False,)),
    "enable_prefix_caching": Fact("every prompt is computed whole, for none shares another's pages", (False,)),
    "enable_reasoning": Fact("reasoning is told from the answer wherever the model marks it", (True,)),
    "enable_sleep_mode": Fact("a model stays loaded until the end", (False,)),
    "skip_tokenizer_init": Fact("the tokenizer is always loaded", (False,)),
    "trust_remote_code": Fact("a checkpoint's own code is never run, families of models are built in", (False,)),
}
VALUES: Mapping[str, Fact] = {
    "allowed_origins": Fact("headers for browsers are a proxy's affair"),
    "attention_backend": Fact("the kernels follow from --device", ("auto",)),
    "chat_template_content_format": Fact("a template gets text", ("auto", "string")),
    "chunked_prefill_size": Fact("give --max-num-batched-tokens"),
    "compilation_config": Fact("there is no compiler to set; --enforce-eager captures no graphs", ("0",), "-O"),
    "context_length": Fact("give --max-model-len"),
    "cpu_offload_gb": Fact("weights stay on the ranks' devices", ("0", "0.0")),
    "data_parallel_size_local": Fact("ranks on several machines are started by torchrun"),
    "distributed_executor_backend": Fact("ranks are processes, on several machines torchrun's", ("mp",)),
    "dp_size": Fact("give --data-parallel-size"),
    "download_dir": Fact("the hub's cache is where HF_HOME says"),
    "ep_size": Fact("give --expert-parallel-size"),
    "generation_config": Fact("defaults for sampling are those of the checkpoint's generation_config.json", ("auto",)),
    "guided_decoding_backend": Fact("structured output is llguidance's", ("auto", "guidance")),
    "hf_token": Fact("set HF_TOKEN in the environment, where other users do not see it"),
    "limit_mm_per_prompt": Fact("models read text only"),
    "max_running_requests": Fact("give --max-num-seqs"),
    "max_seq_len_to_capture": Fact("give --max-cudagraph-capture-size"),
    "mem_fraction_static": Fact("give --gpu-memory-utilization"),
    "nnodes": Fact("ranks on several machines are started by torchrun"),
    "pipeline_parallel_size": Fact("layers are not spread over ranks; give --tp, --dp, --ep", ("1",), "-pp"),
    "quantization": Fact("weights are held as the checkpoint has them, experts as --expert-dtype says", (), "-q"),
    "runner": Fact("models generate text", ("auto", "generate")),
    "scheduling_policy": Fact("a request's `priority` counts, then who came first", ("fcfs", "priority")),
    "speculative_config": Fact("tokens are computed one by one, not guessed ahead"),
    "ssl_certfile": Fact("TLS is a proxy's affair"),
    "ssl_keyfile": Fact("TLS is a proxy's affair"),
    "structured_outputs_config": Fact("structured output is llguidance's"),
    "swap_space": Fact("what was preempted is computed again, not swapped", ("0", "0.0")),
    "task": Fact("models generate text", ("auto", "generate")),
    "tokenizer": Fact("the tokenizer is the checkpoint's own; put tokenizer.json beside its config.json"),
    "tokenizer_mode": Fact("the tokenizer is the checkpoint's tokenizer.json", ("auto", "hf")),
    "tool_server": Fact("tools are the client's to run"),
    "tp_size": Fact("give --tensor-parallel-size"),
}
FACTS: Mapping[str, Fact] = {**SWITCHES, **VALUES}


def without_known_elsewhere(flags: Mapping[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """`flags` (with underscores) less those of the tables; `tell` hears of each that it is so here.

    Raises ValueError, naming the flag, where it asks for what is not so.
    """
    for name, value in flags.items():
        fact = FACTS.get(name)
        if fact is None or value is None:
            continue
        spelled = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        if (value if isinstance(value, bool) else str(value).lower()) not in fact.same:
            but = f", got {value!r}" if name in VALUES and fact.same else ""
            raise ValueError(f"{spelled} is no flag here: {fact.text}{but}")
        tell(f"{spelled}: it is so here; {fact.text}")
    return {name: value for name, value in flags.items() if name not in FACTS}
