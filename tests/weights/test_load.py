"""Slots get exactly their part, in order, in bounded pieces; and what does not fit is refused before a byte is read."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.load import SEEK_BYTES, load
from yardmaster.weights.slot import FLOATS, PACKED, Slot, into

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def save(directory: Path, **tensors: torch.Tensor) -> Checkpoint:
    save_file(tensors, directory / "model.safetensors")
    return Checkpoint(directory)


def never(offset: int, chunk: torch.Tensor) -> None:
    pytest.fail("read before everything was checked")


def refused(words: str, act: Callable[[], object]) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        act()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("seed", range(60))
def test_any_part_of_any_tensor(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    shape = tuple(rng.choice([1, 2, 3, 7, 13]) for _ in range(rng.randint(1, 4)))
    cut = rng.randint(0, len(shape))
    if seed % 4 == 0:  # rows long enough that a part of one is sought, not read over
        shape, cut = (rng.randint(1, 3), rng.randint(2, 5), SEEK_BYTES // 2 + rng.randint(0, 3)), rng.randint(2, 3)
    whole = torch.randn(shape).to(rng.choice(DTYPES))
    take = []
    for size in shape[:cut]:
        start = rng.randrange(size)
        take.append(range(start, rng.randint(start + (rng.random() < 0.9), size)))  # one in ten is empty
    want = whole[tuple(slice(taken.start, taken.stop) for taken in take)]
    target = torch.full(want.shape, float("nan"), dtype=torch.float64)
    slot = Slot("x", shape, into(target), tuple(take))
    biggest = 0

    def put(offset: int, chunk: torch.Tensor) -> None:
        nonlocal biggest
        biggest = max(biggest, chunk.untyped_storage().nbytes())
        assert chunk.dtype == whole.dtype
        slot.put(offset, chunk)

    chunk_bytes = rng.choice([1, 64, 1000, 1 << 20])
    marks: list[tuple[int, int]] = []
    with save(tmp_path, x=whole, before=torch.ones(3)) as checkpoint:
        load(
            checkpoint,
            [Slot("x", shape, put, tuple(take))],
            ignore=["bef*"],
            progress=lambda done, total: marks.append((done, total)),
            chunk_bytes=chunk_bytes,
        )
    assert torch.equal(target, want.double())
    assert biggest <= max(chunk_bytes, whole[0].nbytes)
    assert marks == sorted(marks)
    if marks:
        assert marks[-1][0] == marks[-1][1]


def test_slots_are_filled_in_the_order_of_the_list(tmp_path: Path) -> None:
    names = ["c", "a", "d", "b", "a"]
    seen: list[str] = []

    def slot(name: str) -> Slot:
        return Slot(name, (2,), lambda offset, chunk: seen.append(name))

    with save(tmp_path, **{name: torch.zeros(2) for name in "abcd"}) as checkpoint:
        load(checkpoint, map(slot, names))
    assert seen == names


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    one, none = torch.full((1,), 7.0), torch.empty(0, 3)
    with save(tmp_path, s=torch.tensor(2.5), e=torch.empty(0, 3)) as checkpoint:
        load(checkpoint, [Slot("s", (), into(one)), Slot("e", (0, 3), never)])
    assert one.item() == 2.5
    assert none.shape == (0, 3)


def test_a_rank_without_a_part_is_still_checked(tmp_path: Path) -> None:
    with save(tmp_path, x=torch.zeros(4, 2)) as checkpoint:
        assert load(checkpoint, [Slot("x", (4, 2), never, (range(4, 4),))]) == 0
        refused("shape is", lambda: load(checkpoint, [Slot("x", (4, 3), never, (range(0),))]))


def test_wrong_shape_dtype_missing_surplus(tmp_path: Path) -> None:
    good = Slot("a", (2,), never)
    with save(tmp_path, a=torch.zeros(2), b=torch.zeros(3, 2), u=torch.zeros(2, dtype=torch.uint8)) as checkpoint:
        everything = ["a", "b", "u"]
        cases = {
            r"tensor b: shape is \[3, 2\], config.json calls for \[2, 3\]": Slot("b", (2, 3), never),
            r"tensor b: shape is \[3, 2\], config.json calls for \[6\]": Slot("b", (6,), never),
            "tensor u: dtype is U8, not one of BF16, F16, F32": Slot("u", (2,), never, dtypes=FLOATS),
            "tensor b: dtype is F32, not one of U8": Slot("b", (3, 2), never, dtypes=PACKED),
            "tensor zz: is missing": Slot("zz", (1,), never),
        }
        for words, slot in cases.items():
            refused(words, lambda slot=slot: load(checkpoint, [good, slot], expected=everything))
        refused("tensor (b|u): belongs to nothing", lambda: load(checkpoint, [good]))
        refused("tensor u: belongs to nothing", lambda: load(checkpoint, [good], expected=["a", "b"]))
        refused("tensor q: is missing", lambda: load(checkpoint, [good], expected=[*everything, "q"]))
        got = torch.ones(2)
        load(checkpoint, [Slot("a", (2,), into(got))], ignore=["b", "[u]"])
        assert got.tolist() == [0, 0]


@pytest.mark.parametrize(
    "take", [(range(3),), (range(-1, 1),), (range(0, 2, 2),), (range(2), range(3)), (range(1), range(1), range(1))]
)
def test_a_take_that_does_not_fit_is_the_callers_error(tmp_path: Path, take: tuple[range, ...]) -> None:
    with save(tmp_path, a=torch.zeros(2, 2)) as checkpoint, pytest.raises(ValueError, match="a: "):
        load(checkpoint, [Slot("a", (2, 2), never, take)])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [0, 1, 500, 996])
def test_not_finite(tmp_path: Path, dtype: torch.dtype, value: float, where: int) -> None:
    if dtype == torch.float8_e4m3fn and value == value:
        pytest.skip("E4M3 has no infinity")
    x = torch.randn(997)
    x[where] = value
    target = torch.zeros(997, dtype=torch.float64)
    with save(tmp_path, x=x.to(dtype)) as checkpoint:
        slot = Slot("x", (997,), into(target), dtypes=frozenset({"F64", "F8_E4M3"}) | FLOATS)
        refused("tensor x: holds NaN or infinity", lambda: load(checkpoint, [slot]))
        load(checkpoint, [slot], check_finite=False)
        assert not torch.isfinite(target[where])


def test_not_finite_elsewhere_is_another_ranks_business(tmp_path: Path) -> None:
    x = torch.zeros(4, 6)
    x[1, 4] = float("nan")
    with save(tmp_path, x=x) as checkpoint:
        load(checkpoint, [Slot("x", (4, 6), lambda *_: None, (range(4), range(4)))])
        refused("near row 0", lambda: load(checkpoint, [Slot("x", (4, 6), never, (range(4), range(4, 6)))]))


def test_a_scale_of_nan(tmp_path: Path) -> None:
    scales = torch.full((3, 5), 120, dtype=torch.uint8)
    scales[2, 4] = 255
    with save(tmp_path, w_scales=scales, w_blocks=torch.full((3, 5, 16), 255, dtype=torch.uint8)) as checkpoint:
        blocks = Slot("w_blocks", (3, 5, 16), lambda *_: None, dtypes=PACKED)
        slot = Slot("w_scales", (3, 5), never, dtypes=PACKED)
        refused("tensor w_scales: holds NaN", lambda: load(checkpoint, [blocks, slot]))


def test_into_converts_and_adds_offsets(tmp_path: Path) -> None:
    x = torch.randn(100, 3).to(torch.bfloat16)
    target = torch.full((100, 3), float("nan"))
    with save(tmp_path, x=x) as checkpoint:
        assert load(checkpoint, [Slot("x", (100, 3), into(target))], chunk_bytes=50) == x.nbytes
    assert torch.equal(target, x.float())


RSS = """
import sys
from pathlib import Path
import torch
from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.load import load
from yardmaster.weights.slot import Slot, into

def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

with Checkpoint(Path(sys.argv[1])) as checkpoint:
    shape = checkpoint.info("x").shape
    part = range(shape[0] // 4, shape[0] // 2)
    target = torch.empty(len(part), *shape[1:], dtype=torch.bfloat16)
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    before = kilobytes("VmRSS:")
    load(checkpoint, [Slot("x", shape, into(target), (part,))], chunk_bytes=2 << 20)
    print(kilobytes("VmHWM:") * 1024 - before * 1024 - target.nbytes)
    assert target.min() == target.max() == 1
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    save(tmp_path, x=torch.ones(64, 1024, 1024, dtype=torch.bfloat16)).close()  # 128 MB, of which a quarter is taken
    done = subprocess.run([sys.executable, "-c", RSS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 12 << 20, f"{int(done.stdout) >> 20} MB above the shard"
