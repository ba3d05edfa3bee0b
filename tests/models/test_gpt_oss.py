"""The model against transformers' GptOssForCausalLM in float32: whole, in chunks, token by token, in mixed batches."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, GptOssConfig, GptOssForCausalLM

from yardmaster.cache.manager import CacheManager
from yardmaster.cache.spec import CacheSpec, GroupSpec
from yardmaster.cache.store import KVStore
from yardmaster.engine.plan import Share, StepPlan
from yardmaster.engine.step_builder import Rows, StepBuilder
from yardmaster.experts.base import ExpertShard
from yardmaster.experts.packed import PackedExperts
from yardmaster.experts.resident import ResidentExperts
from yardmaster.experts.swizzled import SwizzledExperts
from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.tuning import Plans
from yardmaster.kernels.reference.mxfp4 import pack, unpack
from yardmaster.layers.rope_config import RopeConfig
from yardmaster.models.config import ModelConfig
from yardmaster.models.gpt_oss import GptOss
from yardmaster.parallel.dispatch.local import LocalDispatcher
from yardmaster.parallel.mesh import Mesh
from yardmaster.tests.models.clear_ids import clear_ids

CPU = torch.device("cpu")
VOCAB = 307

SHAPES = {
    "plain": {},
    "window 128": {"sliding_window": 128},
    "all full": {"layer_types": ["full_attention"] * 4},
    "all sliding": {"layer_types": ["sliding_attention"] * 4},
    "odd order": {
        "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_key_value_heads": 1,
        "num_local_experts": 3,
        "num_experts_per_tok": 3,
    },
    "tied, no bias": {"tie_word_embeddings": True, "attention_bias": False, "num_key_value_heads": 6},
}


def _oracle(**changes):
    fields = {
        "num_hidden_layers": 4,
        "num_local_experts": 7,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "head_dim": 32,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "sliding_window": 20,
        "num_experts_per_tok": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = GptOssConfig(**{**fields, **changes})
    model = GptOssForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # norms near 1, the rest at a scale that keeps the layers' outputs near 1, all as bfloat16 stores them
            noise = torch.randn_like(parameter)
            value = 1 + 0.1 * noise if "norm" in name else noise / parameter.shape[-1] ** 0.5
            parameter.copy_(value.bfloat16())
    return config, model


def _config(hf, **changes):
    rope = hf.rope_parameters
    return replace(
        ModelConfig(
            family="gpt_oss",
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            num_layers=hf.num_hidden_layers,
            num_heads=hf.num_attention_heads,
            num_kv_heads=hf.num_key_value_heads,
            head_dim=hf.head_dim,
            num_experts=hf.num_local_experts,
            experts_per_token=hf.num_experts_per_tok,
            expert_width=hf.intermediate_size,
            layer_types=tuple(hf.layer_types),
            sliding_window=hf.sliding_window,
            rope=RopeConfig(rope["rope_theta"], "yarn", rope["factor"], 4096, 32.0, 1.0, truncate=False),
            max_position=hf.max_position_embeddings,
            rms_norm_eps=hf.rms_norm_eps,
            glu=Glu(hf.swiglu_limit, hf.swiglu_alpha, 1.0),
            attention_bias=hf.attention_bias,
            tie_word_embeddings=hf.tie_word_embeddings,
            quantization=None,
            torch_dtype="bfloat16",
            eos_token_ids=(1,),
            pad_token_id=0,
        ),
        **changes,
    )


def _to_mxfp4(tensors):
    """The experts as an MXFP4 checkpoint has them; and the oracle's own weights are made what that stands for."""
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        dense = tensors[name]
        blocks, scales = pack(dense.transpose(1, 2).contiguous())
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        dense.copy_(unpack(blocks, scales, torch.float32).transpose(1, 2))
        del tensors[name]


class Rig:
    """Our model with its cache, filled from a dict of tensors as the loader would."""

    def __init__(self, config, tensors, make_experts, page_size=4, pages=400, padding=None):
        mesh = Mesh.single()
        shard = ExpertShard(
            config.num_experts,
            config.hidden_size,
            config.expert_width,
            mesh.experts(config.num_experts),
            mesh.columns(config.expert_width),
            config.glu,
        )
        self.model = GptOss(
            config,
            mesh,
            lambda layer: make_experts(shard),
            LocalDispatcher(),
            dtype=torch.float32,
            device=CPU,
        )
        for slot in self.model.slots():
            tensor = tensors.pop(slot.name)
            assert tuple(tensor.shape) == slot.shape
            slot.put(0, tensor)
        groups = []
        for name, window in (("full_attention", None), ("sliding_attention", config.sliding_window)):
            layers = tuple(i for i, kind in enumerate(config.layer_types) if kind == name)
            if layers:
                groups.append(GroupSpec(name, layers, window, pages))
        spec = CacheSpec(page_size, tuple(groups))
        self.store = KVStore(spec, kv_heads=config.num_kv_heads, width=config.head_dim, dtype=torch.float32, device=CPU)
        self.poison()
        self.manager = CacheManager(spec)
        self.padding = padding
        self.builder = StepBuilder(spec, max_num_seqs=8, max_model_len=page_size * pages, device=CPU)

    def poison(self):
        for cache in (*self.store.keys.values(), *self.store.values.values()):
            cache.fill_(float("nan"))

    @torch.inference_mode()
    def step(self, *shares):
        """Logits of all tokens of (request, start, ids) shares, in order."""
        plan = [
            Share(int(request), start, ids, self.manager.extend(request, start, len(ids)), True)
            for request, start, ids in shares
        ]
        if self.padding is None or any(share.count != 1 for share in plan):
            return self.model.logits(self.model(self.builder.build(StepPlan(plan))[0], self.store))
        # as a captured step has it: rows of padding, and tables as wide as they can be
        self.builder.grant(StepPlan(plan))
        arrays = self.builder.row_arrays(StepPlan(plan), len(plan) + self.padding)
        step = self.builder.lay_out(Rows(*map(torch.tensor, arrays)), self.builder.columns * self.store.spec.page_size)
        return self.model.logits(self.model(step, self.store))[: len(plan)]

    def run(self, ids, sizes, request="0"):
        self.poison()  # pages come back from earlier runs, written where this one must not read
        logits, start = [], 0
        while start < len(ids):
            size = sizes[len(logits) % len(sizes)]
            logits.append(self.step((request, start, ids[start : start + size])))
            start += size
        self.manager.release(request)
        return torch.cat(logits)


def _difference(got, want):
    return ((got - want).norm() / want.norm()).item()


def _resident(packed_source):
    return lambda shard: ResidentExperts(shard, dtype=torch.float32, device=CPU, packed_source=packed_source)


def _packed(shard):
    return PackedExperts(shard, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("storage", ["bfloat16", "mxfp4 unpacked", "mxfp4 packed"])
def test_logits_agree_with_transformers(shape, storage):
    hf, oracle = _oracle(**SHAPES[shape])
    tensors = dict(oracle.state_dict())
    if hf.tie_word_embeddings:
        del tensors["lm_head.weight"]
    make, quantization = _resident(False), None
    if storage != "bfloat16":
        _to_mxfp4(tensors)
        make, quantization = (_packed if storage.endswith(" packed") else _resident(True)), "mxfp4"
    rig = Rig(_config(hf, quantization=quantization), tensors, make)
    assert not tensors, "tensors of the checkpoint that no slot took"
    for length in (1, 7, 130, 300):
        (ids,), (want,) = clear_ids(oracle, 1, length)
        for sizes in ([length], [1], [3, 1, 50], [50, 1, 1, 1], [130, 1], [17, 130]):
            if length == 300 and sizes == [1] and storage != "bfloat16":
                continue  # the same cache code as before, three hundred steps of it
            assert _difference(rig.run(ids.tolist(), sizes), want) < 1e-5


class Dense(torch.nn.Module):
    """What stands in the place of experts in a dense layer: its formula, as the model card gives it for an expert."""

    def __init__(self, hidden, width):
        super().__init__()
        self.gate_up_proj = torch.nn.Linear(hidden, 2 * width)
        self.down_proj = torch.nn.Linear(width, hidden)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).unflatten(-1, (-1, 2)).unbind(-1)
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return self.down_proj((up + 1) * gate * torch.sigmoid(1.702 * gate)), None


def test_layers_without_experts():
    hf, oracle = _oracle()
    dense = (0, 2)
    for layer in dense:
        oracle.model.layers[layer].mlp = Dense(hf.hidden_size, 80).requires_grad_(False)
    tensors = dict(oracle.state_dict())
    rig = Rig(_config(hf, dense_layers=dense, dense_width=80), tensors, _resident(False))
    assert not tensors
    assert len(rig.model.moes()) == 2
    (ids,), (want,) = clear_ids(oracle, 1, 60)
    for sizes in ([60], [1], [17, 30]):
        assert _difference(rig.run(ids.tolist(), sizes), want) < 1e-5


@pytest.mark.parametrize("padding", [None, 0, 3])
def test_requests_in_one_batch_do_not_touch_each_other(padding):
    hf, oracle = _oracle()
    rig = Rig(_config(hf), dict(oracle.state_dict()), _resident(False), padding=padding)
    lengths = {"0": 90, "1": 41, "2": 64, "3": 5}
    drawn = {request: clear_ids(oracle, 1, length) for request, length in lengths.items()}
    ids, want = ({request: pair[side][0] for request, pair in drawn.items()} for side in (0, 1))
    done = dict.fromkeys(ids, 0)
    got = {request: [] for request in ids}
    generator = torch.Generator().manual_seed(torch.randint(0, 1 << 30, ()).item())
    while any(done[request] < lengths[request] for request in ids):
        shares = []
        for request in ids:
            size = int(torch.randint(0, 30, (), generator=generator)) if request != "2" else 1
            size = min(size, lengths[request] - done[request])
            if size:
                shares.append((request, done[request], ids[request][done[request] :][:size].tolist()))
        shares.sort(key=lambda share: len(share[2]) > 1)
        if generator.initial_seed() % 2 and shares and len(shares[0][2]) == 1:
            shares = [share for share in shares if len(share[2]) == 1]  # steps that only decode are laid out otherwise
        if not shares:
            continue
        logits = rig.step(*shares)
        for request, start, tokens in shares:
            got[request].append(logits[: len(tokens)])
            logits = logits[len(tokens) :]
            done[request] = start + len(tokens)
            if done[request] == lengths[request]:
                rig.manager.release(request)
    for request in ids:
        assert _difference(torch.cat(got[request]), want[request]) < 1e-5


@pytest.fixture
def gpu_kernels(monkeypatch):
    """Every door leads to the GPU's kernels, which run under Triton's interpreter, in float32."""
    pytest.importorskip("triton")
    from yardmaster.kernels import attention, look_up, norm, permute, routing, sampling, store

    for door in (attention, norm, routing, store):
        monkeypatch.setattr(door, "has_gpu_kernels", lambda x: True)
    for door in (look_up, permute, sampling):
        monkeypatch.setattr(door, "triton_runs_on", lambda device: True)


def test_the_gpu_kernels_in_the_whole_model(gpu_kernels):
    """Prompts, chunks over a cache, mixed steps and padded steps of single tokens, with MXFP4 experts."""
    hf, oracle = _oracle(
        num_hidden_layers=2,
        sliding_window=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        intermediate_size=32,
    )
    tensors = dict(oracle.state_dict())
    _to_mxfp4(tensors)
    rig = Rig(
        _config(hf, quantization="mxfp4"),
        tensors,
        lambda shard: SwizzledExperts(shard, dtype=torch.float32, device=CPU, plans=Plans(4)),
        padding=2,
    )
    ids, want = clear_ids(oracle, 3, 11)
    got = [[], [], []]
    with torch.inference_mode():
        steps = [
            [(0, 0, 4)],
            [(0, 4, 1), (1, 0, 7)],
            [(0, 5, 1), (1, 7, 1), (2, 0, 9)],
            [(0, 6, 5), (1, 8, 2), (2, 9, 1)],
        ]
        for step in [*steps, [(1, 10, 1), (2, 10, 1)]]:
            step.sort(key=lambda share: share[2] > 1)
            logits = rig.step(*((str(r), start, ids[r, start : start + count].tolist()) for r, start, count in step))
            for (request, _, _), part in zip(step, logits.split([count for _, _, count in step]), strict=True):
                got[request].append(part)
    for request, parts in enumerate(got):
        assert _difference(torch.cat(parts), want[request]) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_context_of_128k_tokens():
    """Near the end of the longest context; transformers goes there in chunks of its own, through its own cache."""
    hf, oracle = _oracle(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, sliding_window=128)
    rig = Rig(_config(hf), dict(oracle.state_dict()), _resident(False), page_size=16, pages=8193)
    length, tail = hf.max_position_embeddings, 40
    ids = torch.randint(0, VOCAB, (length,))
    cache = DynamicCache(config=hf)
    with torch.no_grad():
        for part in ids[:-tail].split(512):
            oracle(part[None], past_key_values=cache, logits_to_keep=1)
        want = oracle(ids[None, -tail:], past_key_values=cache).logits[0]
    got, start = [], 0
    for size in [4096] * ((length - tail) // 4096) + [(length - tail) % 4096] + [7] + [1] * (tail - 7):
        logits = rig.step(("0", start, ids[start : start + size].tolist()))
        start += size
        if start > length - tail:
            got.append(logits)
    assert start == length == 131072
    assert _difference(torch.cat(got), want) < 2e-5


def test_a_step_without_tokens_runs():
    hf, oracle = _oracle()
    rig = Rig(_config(hf), dict(oracle.state_dict()), _resident(False))
    assert rig.step().shape == (0, VOCAB)
