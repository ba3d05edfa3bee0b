"""The fused mixture-of-experts products against their twin in float64: dense weights, and how pairs are found.

Without a GPU they run under Triton's interpreter, in float32 where the compiled kernels take bfloat16 into the matrix
instruction: rounding there and the pipeline are what these tests cannot see.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import triton
import triton.language as tl

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts import moe_experts
from yardmaster.kernels.gpu.experts_plan import FEW_PAIRS, Plan, Tile
from yardmaster.kernels.gpu.pairs import any_before, count_pairs, nth_pair, pairs_of
from yardmaster.kernels.reference import experts as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts bfloat16 off where the hardware rounds; in float32 it shows every wrong index to six digits.
DTYPE, CLOSE = (torch.bfloat16, 8e-3) if DEVICE == "cuda" else (torch.float32, 3e-6)
GLUS = [Glu(7.0, 1.702, 1.0), Glu()]
SMALL = Tile(16, 8, 64, warps=1, stages=1)
LARGE = Tile(128 if DEVICE == "cuda" else 16, 16, 64, warps=8, stages=1, last_m=8)  # its programs share the tiles
PLANS = {
    "few": Plan(True, SMALL, SMALL),
    "few, split": Plan(True, SMALL, Tile(16, 8, 64, warps=1, stages=1, split=2)),
    "many": Plan(False, SMALL, Tile(32, 16, 64, warps=1, stages=1)),
    "many, shared": Plan(False, LARGE, LARGE),
    "many, narrow last": Plan(
        False, Tile(16, 16, 64, warps=1, stages=1, last_m=8), Tile(32, 32, 64, warps=1, stages=1, last_m=8)
    ),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or a large number."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty", empty)


def _keys(tokens: int, k: int, experts: int, absent: bool) -> torch.Tensor:
    keys = torch.stack([torch.randperm(experts + absent)[:k] for _ in range(tokens)]) if tokens else torch.empty(0, k)
    return keys.long().to(DEVICE)


def _weights(experts: int, hidden: int, width: int) -> tuple[torch.Tensor, ...]:
    shapes = (experts, 2 * width, hidden), (experts, 2 * width), (experts, hidden, width), (experts, hidden)
    return tuple(
        (torch.randn(shape) * (3 / shape[-1] ** 0.5 if len(shape) == 3 else 1)).bfloat16().to(DEVICE)
        for shape in shapes
    )


def _agree(got: torch.Tensor, want: torch.Tensor, keys: torch.Tensor, experts: int) -> None:
    here = keys < experts
    assert got.shape == want.shape
    got, want = got[here].double(), want[here].double()
    assert (got - want).norm() <= CLOSE * want.norm()


def _double(weights: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
    return [None if weight is None else weight.double() for weight in weights]


@pytest.mark.parametrize("glu", GLUS, ids=["gpt-oss", "silu"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("tokens", "k", "experts", "hidden", "width"), [(1, 2, 3, 70, 9), (3, 2, 3, 64, 64), (11, 1, 1, 33, 17)]
)
def test_dense(tokens: int, k: int, experts: int, hidden: int, width: int, plan: str, glu: Glu) -> None:
    weights = _weights(experts, hidden, width)
    x = torch.randn(tokens, hidden).to(DEVICE, DTYPE)
    keys = _keys(tokens, k, experts, absent=experts > 1)
    got = moe_experts(x, keys, *weights, glu, plan=PLANS[plan])
    _agree(got, reference.moe_experts(x.double(), keys, *_double(weights), glu), keys, experts)


@pytest.mark.parametrize("plan", PLANS)
def test_tokens_may_be_named_and_biases_missing(plan: str) -> None:
    gate_up, _, down, _ = _weights(4, 40, 16)
    x = torch.randn(3, 40).to(DEVICE, DTYPE)
    token = torch.tensor([2, 0, 0, 1, 2, 2, 0], device=DEVICE)
    keys = torch.tensor([3, 1, 0, 1, 4, 1, 1], device=DEVICE)
    got = moe_experts(x, keys, gate_up, None, down, None, GLUS[0], token, plan=PLANS[plan])
    want = reference.moe_experts(x.double(), keys, gate_up.double(), None, down.double(), None, GLUS[0], token)
    _agree(got, want, keys, 4)


@pytest.mark.parametrize("tokens", [0, 1, 2, 9, 33])
def test_the_plan_chosen_by_itself(tokens: int) -> None:
    weights = _weights(2, 64, 16)
    x, keys = torch.randn(tokens, 64).to(DEVICE, DTYPE), _keys(tokens, 2, 2, absent=True)
    got = moe_experts(x, keys, *weights, GLUS[0])
    _agree(got, reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0]), keys, 2)


def test_more_pairs_of_an_expert_than_a_tile_holds() -> None:
    weights = _weights(2, 64, 16)
    x, keys = torch.randn(19, 64).to(DEVICE, DTYPE), torch.zeros(19, 1, dtype=torch.int64, device=DEVICE)
    want = reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0])
    for plan in PLANS.values():
        _agree(moe_experts(x, keys, *weights, GLUS[0], plan=plan), want, keys, 2)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_size_and_any_choice_of_experts(data: st.DataObject) -> None:
    """Pairs of one expert or of all, keys that are none, experts without a pair; fewer experts than pairs, or more."""
    tokens, k, experts = data.draw(st.tuples(st.integers(0, 8), st.integers(1, 3), st.integers(1, 30)))
    hidden, width = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 12)))
    plan = PLANS[data.draw(st.sampled_from(sorted(PLANS)))]
    used = data.draw(st.integers(1, min(experts, 6)))
    torch.manual_seed(data.draw(st.integers(0, 1 << 30)))
    made: list[tuple[torch.Tensor, ...]] = []
    for _ in range(1 + 64 // (tokens * k * hidden or 64)):  # the norm of a few numbers may be next to nothing
        keys = torch.randint(0, used + 1, (tokens, k)).to(DEVICE)
        keys[keys == used] = experts
        weights = _weights(experts, hidden, width)
        x = torch.randn(tokens, hidden).to(DEVICE, DTYPE)
        got = moe_experts(x, keys, *weights, GLUS[0], plan=plan)
        made.append((got, reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0]), keys))
    _agree(*map(torch.cat, zip(*made, strict=True)), experts)  # type: ignore[arg-type]


@pytest.mark.parametrize(("pairs", "experts"), [(FEW_PAIRS, 3), (66, 70)])
def test_as_many_pairs_as_are_found_without_grouping(pairs: int, experts: int) -> None:
    weights = _weights(experts, 16, 8)
    x = torch.randn(pairs, 16).to(DEVICE, DTYPE)
    keys = torch.randint(0, min(experts, 7), (pairs, 1)).to(DEVICE)
    want = reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0])
    _agree(moe_experts(x, keys, *weights, GLUS[0], plan=PLANS["few"]), want, keys, experts)


def test_a_plan_that_does_not_group_so_many_pairs_is_refused() -> None:
    weights = _weights(1, 8, 8)
    x, keys = torch.randn(FEW_PAIRS + 1, 8).to(DEVICE, DTYPE), torch.zeros(FEW_PAIRS + 1, 1, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=f"{FEW_PAIRS + 1} pairs, and a plan that does not group them; at most {FEW_PAIRS}"
    ):
        moe_experts(x, keys.to(DEVICE), *weights, GLUS[0], plan=PLANS["few"])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("experts", [2, 9])
def test_what_is_no_key_does_no_harm(experts: int, plan: str) -> None:
    weights = _weights(experts, 20, 8)
    x = torch.randn(6, 20).to(DEVICE, DTYPE)
    keys = torch.tensor([[0], [-1], [1], [experts + 3], [(1 << 32) + 1], [-(1 << 40)]], device=DEVICE)
    got = moe_experts(x, keys, *weights, GLUS[0], plan=PLANS[plan])
    good = torch.tensor([0, 2], device=DEVICE)
    want = reference.moe_experts(x[good].double(), keys[good], *_double(weights), GLUS[0])
    _agree(got[good], want, keys[good], experts)


@triton.jit
def _find(keys, wanted, pairs, experts, places, counts, leads, WORDS: tl.constexpr, WIDE: tl.constexpr):
    row = tl.program_id(0)
    mine = pairs_of(keys, tl.load(wanted + row), pairs, experts, WORDS)
    nth = tl.arange(0, 512)
    tl.store(places + row * 512 + nth, nth_pair(mine, nth, WORDS, WIDE))
    tl.store(counts + row, count_pairs(mine, WORDS, WIDE))
    for slot in range(pairs):
        tl.store(leads + row * 512 + slot, any_before(mine, slot, WORDS).to(tl.int32))


@pytest.mark.parametrize("pairs", [0, 1, 31, 32, 33, 63, 64, 65, 128, 129, 200, 256, 257, 450, 512])
def test_the_pairs_of_an_expert_are_found_in_order(pairs: int) -> None:
    keys = torch.randint(-1, 5, (512,)).to(DEVICE)  # what stands behind the last pair is not to be seen
    keys[keys == 3] = 1
    keys[torch.tensor([63, 191, 255])] = 3  # last bits alone
    keys[64:129] = 2  # a word full of ones
    wanted = torch.tensor([-1, 0, 2, 3, 4], dtype=torch.int32, device=DEVICE)
    places, leads = (torch.full((5, 512), -5, dtype=torch.int32, device=DEVICE) for _ in range(2))
    counts = torch.full((5,), -5, dtype=torch.int32, device=DEVICE)
    words, wide = triton.next_power_of_2(max(1, -(-pairs // 64))), not isinstance(_find, triton.JITFunction)
    _find[(5,)](keys, wanted, pairs, 4, places, counts, leads, WORDS=words, WIDE=wide)
    for row, key in enumerate(wanted.tolist()):
        want = [at for at, other in enumerate(keys[:pairs].tolist()) if other == key] if 0 <= key < 4 else []
        place = places[row].tolist()
        assert counts[row] == len(want)
        assert place[: len(want)] == want
        assert all(0 <= at < 64 * words for at in place)
        assert leads[row, :pairs].tolist() == [int(any(other < slot for other in want)) for slot in range(pairs)]
