"""How other people's attention is called: against stand-ins for it."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
import torch

from yardmaster.bench import peers_attention
from yardmaster.bench.absent import Absent
from yardmaster.bench.attention_case import PAGE, SHAPES, Batch, Shape
from yardmaster.bench.peers_attention import PEERS, agreeing
from yardmaster.tests.bench.pretended_attention import (
    PlannedDecode,
    PlannedPrefill,
    PlannedSinks,
    flash_kvcache,
    flash_varlen,
    paged,
    sglang_decode_new,
    sglang_decode_old,
    sglang_extend_new,
    sglang_extend_old,
    unified_new,
    unified_old,
)

SINKS = Shape("sinks", 8, 2, 16, sinks=True)
SLIDING = Shape("sliding", 8, 2, 16, sinks=True, window=21)
PLAIN = Shape("plain", 4, 2, 32)
PLAIN_SLIDING = Shape("plain sliding", 4, 4, 32, window=5)
TINY = [SINKS, SLIDING, PLAIN, PLAIN_SLIDING]
RAGGED = {"decode": ([63, 5, 0, 40], [1, 1, 1, 1]), "prefill": ([63, 7, 0, 40], [30, 7, 50, 1])}
LIKE = {"decode": ([63, 63], [1, 1]), "prefill": ([9, 9], [40, 40]), "whole": ([0], [61])}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """`pretend("a.b", name=value)`: these names can be imported from a.b; what else the peers look for cannot."""
    for module in ("vllm", "vllm_flash_attn", "sgl_kernel", "flash_attn_interface", "flashinfer", "sglang"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "triton_unified_attention", None)

    def install(path: str, **names: object) -> None:
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if sys.modules.get(name) is None:
                monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, value in names.items():
            setattr(sys.modules[path], name, value)

    return install


def asked(peer: str, shape: Shape, kind: str) -> str:
    """ "agrees", or what is said of it."""
    record: dict = {"unasked": []}
    kept = agreeing(shape, kind, [peer], record, "cpu")
    assert list(kept) == ["yardmaster", *([] if record["unasked"] else [peer])]
    return record["unasked"][0]["said"] if record["unasked"] else "agrees"


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("requests", [*RAGGED.values(), *LIKE.values()], ids=str)
def test_a_case_is_what_it_says(shape: Shape, requests: tuple) -> None:
    batch = Batch(shape, *requests, "cpu")
    layer = batch.layer()
    pages = [
        page
        for row, length in zip(batch.pages_RP.tolist(), batch.lengths, strict=True)
        for page in row[: -(-length // PAGE)]
    ]
    assert sorted(pages) == list(range(batch.pages))
    left = -1 if shape.window is None else shape.window - 1
    rule = {"sinks_H": layer.sinks_H, "left": left, "scale": shape.width**-0.5}
    caches = layer.k_cache, layer.v_cache
    want = paged(layer.q_THd, *caches, batch.offsets_R1, batch.lengths_R, batch.pages_RP, **rule)
    torch.testing.assert_close(batch.ours(layer), want, atol=2e-2, rtol=2e-2)
    slots_T, begins = batch.slots(batch.starts, batch.lengths)
    assert begins.tolist() == batch.offsets_R1.tolist()
    assert torch.equal(layer.k_cache.flatten(0, 1)[slots_T], layer.k_Thd)


@torch.inference_mode()
@pytest.mark.parametrize("peer", ["torch SDPA", "torch flex_attention"])
@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
def test_torchs_own_agree(peer: str, shape: Shape) -> None:
    few = peer.endswith("flex_attention") and shape not in (SLIDING, PLAIN)  # which is slow here
    for requests in (RAGGED["prefill"], LIKE["decode"]) if few else (*RAGGED.values(), *LIKE.values()):
        batch = Batch(shape, *requests, "cpu")
        layers = [batch.layer() for _ in range(2)]
        calls = PEERS[peer](batch, layers)
        assert len(calls) == 2
        for call, layer in zip(calls, layers, strict=True):
            peers_attention._compare(call(), batch.ours(layer))


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_flash_attention_3(shape: Shape, kind: str, pretend) -> None:
    assert asked("FlashAttention 3", shape, kind).startswith("absent (vllm.vllm_flash_attn: ")
    pretend("flash_attn_interface", flash_attn_with_kvcache=flash_kvcache)
    said = "absent (the build that is here knows no sinks)" if shape.sinks else "agrees"
    assert asked("FlashAttention 3", shape, kind) == said
    pretend("vllm.vllm_flash_attn", flash_attn_varlen_func=flash_varlen)
    assert asked("FlashAttention 3", shape, kind) == "agrees"


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_flashinfer(shape: Shape, kind: str, pretend) -> None:
    assert asked("FlashInfer", shape, kind).startswith("absent (flashinfer: ")
    pretend("flashinfer", BatchDecodeWithPagedKVCacheWrapper=PlannedDecode)
    if shape.sinks:
        assert "no attribute 'BatchAttentionWithAttentionSinkWrapper'" in asked("FlashInfer", shape, kind)
    pretend("flashinfer", BatchPrefillWithPagedKVCacheWrapper=PlannedPrefill)
    pretend("flashinfer", BatchAttentionWithAttentionSinkWrapper=PlannedSinks)
    assert asked("FlashInfer", shape, kind) == "agrees"


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_vllm_triton(shape: Shape, kind: str, pretend) -> None:
    assert asked("vLLM Triton", shape, kind).startswith("absent (vllm.v1.attention.ops")
    pretend("triton_unified_attention", unified_attention=unified_old)
    assert asked("vLLM Triton", shape, kind) == "agrees"
    pretend("vllm.v1.attention.ops.triton_unified_attention", unified_attention=unified_new)
    assert asked("vLLM Triton", shape, kind) == "agrees"


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_sglang_triton(shape: Shape, kind: str, pretend) -> None:
    assert asked("SGLang Triton", shape, kind).startswith("absent (sglang.kernels.ops.attention")
    name = "decode" if kind == "decode" else "extend"
    old, new = {"decode": (sglang_decode_old, sglang_decode_new), "extend": (sglang_extend_old, sglang_extend_new)}[
        name
    ]
    pretend(f"sglang.srt.layers.attention.triton_ops.{name}_attention", **{f"{name}_attention_fwd": old})
    assert asked("SGLang Triton", shape, kind) == "agrees"
    pretend(f"sglang.kernels.ops.attention.{name}_attention", **{f"{name}_attention_fwd": new})
    assert asked("SGLang Triton", shape, kind) == "agrees"


def absent(batch, layers):
    raise Absent("not bought")


def broken(batch, layers):
    raise TypeError("a keyword of last year\nand a long explanation")


def late(batch, layers):
    return [lambda: 1 / 0]


def no_window(batch, layers):
    """What a peer computes that has not understood one of its arguments."""
    s = batch.shape
    other = Shape(s.name, s.heads, s.kv_heads, s.width, s.sinks)
    wide = Batch(other, batch.starts, batch.counts, "cpu")
    wide.pages_RP = batch.pages_RP
    return peers_attention.ours(wide, layers)


def nan(batch, layers):
    return [lambda: torch.full_like(layers[0].q_THd, torch.nan)]


def flat(batch, layers):
    return [lambda: batch.ours(layers[0]).flatten(1)]


def test_what_does_not_agree_is_said_and_stops_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = (absent, broken, late, no_window, nan, flat)
    for make in peers:
        monkeypatch.setitem(PEERS, make.__name__, make)
    record: dict = {"unasked": []}
    kept = agreeing(SLIDING, "prefill", [make.__name__ for make in peers], record, "cpu")
    assert list(kept) == ["yardmaster"]
    said = {line["peer"]: line["said"] for line in record["unasked"]}
    assert said["absent"] == "absent (not bought)"
    assert said["broken"] == "failed (TypeError: a keyword of last year and a long explanation)"
    assert said["late"] == "failed (ZeroDivisionError: division by zero)"
    assert "differs from ours by" in said["no_window"]
    assert "differs from ours by nan" in said["nan"]
    assert "its result is (341, 128), ours (341, 8, 16)" in said["flat"]
    assert "prefill           nan: failed" in capsys.readouterr().out
    assert set(agreeing(SINKS, "decode", ["no_window"], record, "cpu")) == {"yardmaster", "no_window"}


def test_rows_are_told_beside_ours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([10.0, 25.0])
    monkeypatch.setattr(peers_attention, "_timed", lambda calls: ([call() for call in calls], (next(took), "graph"))[1])
    monkeypatch.setattr(peers_attention, "ROTATE_BYTES", 1)
    batch = Batch(SLIDING, [40] * 3, [1] * 3, "cpu")
    record = {"copy_gb_per_s": 0.1, "matmul_tflop_per_s": 1.0, "rows": [], "unasked": []}
    peers = {"yardmaster": peers_attention.ours, "broken": broken, "torch SDPA": PEERS["torch SDPA"]}
    peers_attention.measure("decode 3 at 41", batch, peers, record)
    ours, sdpa = record["rows"]
    floor = (3 * 21 * 2 * 2 * 16 * 2 + 2 * 3 * 8 * 16 * 2) / 0.1e9 * 1e6  # keys and values, queries and results
    assert ours["floor_us"] == pytest.approx(floor)
    assert (ours["us"], ours["ratio"], ours["ours_of_it"]) == (10.0, pytest.approx(floor / 10, abs=1e-3), 1.0)
    assert (sdpa["peer"], sdpa["us"], sdpa["ours_of_it"], sdpa["step"]) == ("torch SDPA", 25.0, 0.4, "decode 3 at 41")
    assert [line["peer"] for line in record["unasked"]] == ["broken"]
    printed = capsys.readouterr().out
    assert "2.50x" in printed
    assert "broken: failed (TypeError: a keyword" in printed
    json.dumps(record)


def test_floors_of_true_shapes() -> None:
    """Counted by hand for 3.0 TB/s and 798 TFLOP/s: keys and values once, then operations."""
    full = Batch(SHAPES["gpt-oss full"], [1023] * 32, [1] * 32, "cpu")
    assert full.floor_seconds(3.0e12, 798e12) == pytest.approx(22.5e-6, rel=0.02)
    assert full.cache_bytes() == 64 << 20
    prompt = Batch(SHAPES["gpt-oss full"], [0], [8192], "cpu")
    assert prompt.floor_seconds(3.0e12, 798e12) == pytest.approx(4 * 8192 * 8193 / 2 * 4096 / 798e12)
    sliding = Batch(SHAPES["gpt-oss sliding"], [0], [8192], "cpu")
    pairs = 127 * 128 / 2 + (8192 - 127) * 128
    assert sliding.floor_seconds(3.0e15, 798e12) == pytest.approx(4 * pairs * 4096 / 798e12)


def test_the_command_line_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["peers_attention", "--batches", "1", "--contexts", "--prompts", "100"])
    options = peers_attention._options()
    assert peers_attention._cases(options) == {"decode": [], "prefill": [("prefill 100", [0], [100])]}
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="needs a CUDA device"):
            peers_attention.main()
