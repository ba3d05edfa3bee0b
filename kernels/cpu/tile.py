"""The inner product of all CPU kernels: y = x W^T + b in float32, W as stored, each weight read from memory once.

A tile of 4 output rows by a few tokens is summed in registers: a vector of weights is turned into exact float32
values and meets one vector of every token's inputs. So weights cost what they weigh in memory (2 bytes in bfloat16,
17/32 in MXFP4) as long as tokens are few, and arithmetic runs at full width when they are many; nothing is unpacked
to memory.

Every sum has one order, lanes of partial sums in steps along the inner dimension, whatever the number of tokens and
threads: a token's outputs are bit for bit the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from llvmlite import ir
from llvmlite.ir import Value

from .code import F32, I8, I32, INT, PTR, Code, const, fill, vector
from .floats import Floats
from .host import Host

BLOCK = 32  # values under one MXFP4 scale
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Weight(Protocol):
    """How weights are stored: a row of `inner` values takes `row_bytes(inner)` and has `row_scales(inner)` scales."""

    name: str

    def row_bytes(self, code: Code, inner: Value) -> Value: ...

    def row_scales(self, code: Code, inner: Value) -> Value: ...

    def sums(self, code: Code, host: Host, place: Place, rows: int) -> list[Value]:
        """Emit the loop along the inner dimension: a vector of partial sums per (token, row), rows fastest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses and sizes as values of the emitted code. `table` holds the 256 scales 2^(s - 127) as float32."""

    weight: Value
    scales: Value
    table: Value
    x_at: list[Value]  # the rows of a few tokens
    inner: Value


class Dense:
    """One float a value: float32, float16 or bfloat16, rows of `inner` values without gaps."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._floats = Floats(dtype)
        self.name = self._floats.name

    def row_bytes(self, code: Code, inner: Value) -> Value:
        return code.mul(inner, const(self._floats.dtype.itemsize))

    def row_scales(self, code: Code, inner: Value) -> Value:
        return const(0)

    def sums(self, code: Code, host: Host, place: Place, rows: int) -> list[Value]:
        row_at = [code.at(place.weight, code.mul(place.inner, const(r)), self._floats.kind) for r in range(rows)]
        ahead = code.mul(place.inner, const(rows))
        return emit_dots(code, host.lanes, self._floats, row_at, place.x_at, place.inner, ahead)


def emit_dots(
    code: Code,
    lanes: int,
    floats: Floats,
    row_at: list[Value],
    x_at: list[Value],
    inner: Value,
    ahead: Value | None = None,
) -> list[Value]:
    """A vector of partial sums per (x, row), rows fastest, of `inner` products of stored rows with float32 ones.

    What stands `ahead` values behind each row is fetched meanwhile.
    """

    def whole(i: Value, sums: list[Value]) -> list[Value]:
        for row in row_at if ahead is not None else []:
            code.prefetch(row, code.add(i, ahead), floats.kind)
        weights = [floats.get(code, row, i, lanes) for row in row_at]
        return _multiply(code, weights, [code.get(x, i, F32, lanes) for x in x_at], sums)

    def single(i: Value, sums: list[Value]) -> list[Value]:
        weights = [floats.first(code, row, i, lanes) for row in row_at]
        return _multiply(code, weights, [code.first_lane(code.get(x, i, F32), lanes) for x in x_at], sums)

    even = code.and_(inner, const(-lanes))
    sums = code.loop(const(0), even, lanes, [fill(F32, lanes, 0)] * (len(row_at) * len(x_at)), whole)
    return code.loop(even, inner, 1, sums, single)


class Mxfp4:
    """Blocks of 32 four-bit floats under one power of two, as in the checkpoint. `inner` is a multiple of 32.

    A byte holds two neighbours, so its low and high nibbles meet inputs that the caller has brought into the order
    of 16 even, then 16 odd ones.
    """

    name = "mxfp4"

    def row_bytes(self, code: Code, inner: Value) -> Value:
        return code.udiv(inner, const(2))

    def row_scales(self, code: Code, inner: Value) -> Value:
        return code.udiv(inner, const(BLOCK))

    def sums(self, code: Code, host: Host, place: Place, rows: int) -> list[Value]:
        blocks = self.row_scales(code, place.inner)
        half = BLOCK // 2
        row_at = [code.at(place.weight, code.mul(blocks, const(half * r)), I8) for r in range(rows)]
        scale_at = [code.at(place.scales, code.mul(blocks, const(r)), I8) for r in range(rows)]
        ahead = code.mul(blocks, const(2 * half * rows))  # a row is short: look two groups of rows ahead

        def block(i: Value, sums: list[Value]) -> list[Value]:
            byte = code.mul(i, const(half))
            for row in row_at:
                code.prefetch(row, code.add(byte, ahead), I8)
            scales = [code.get(place.table, code.zext(code.get(scale, i, I8), INT), F32) for scale in scale_at]
            decode = [_decoder(code, host, code.splat(scale, host.lanes)) for scale in scales]
            for part in range(0, half, host.lanes):
                at = code.add(byte, const(part))
                codes = [code.zext(code.get(row, at, I8, host.lanes), vector(I32, host.lanes)) for row in row_at]
                for offset, shift in ((part, 0), (part + half, 4)):
                    at = code.add(code.mul(i, const(BLOCK)), const(offset))
                    weights = [
                        value(code.lshr(four, fill(I32, host.lanes, shift)) if shift else four)
                        for value, four in zip(decode, codes, strict=True)
                    ]
                    sums = _multiply(code, weights, [code.get(x, at, F32, host.lanes) for x in place.x_at], sums)
            return sums

        return code.loop(const(0), blocks, 1, [fill(F32, host.lanes, 0)] * (rows * len(place.x_at)), block)


@cache
def scale_table() -> torch.Tensor:
    """2^(s - 127) for s in 0 … 255, as `Place.table` wants it."""
    return torch.tensor([2.0 ** (s - 127) for s in range(256)], dtype=torch.float64).float()


def _multiply(code: Code, weights: list[Value], inputs: list[Value], sums: list[Value]) -> list[Value]:
    pairs = [(weight, x) for x in inputs for weight in weights]
    return [code.multiply_add(weight, x, total) for (weight, x), total in zip(pairs, sums, strict=True)]


def _decoder(code: Code, host: Host, scale: Value) -> Callable[[Value], Value]:
    """From the low four bits of each lane (higher ones may be anything) to float32 values, times `scale`; exact."""
    lanes = host.lanes
    table = code.fmul(ir.Constant(vector(F32, lanes), [*E2M1, *(-value for value in E2M1)][:lanes]), scale)
    if host.lookup and lanes == 16:
        return lambda codes: code.look_up(table, codes)

    def signed(codes: Value, positive: Value) -> Value:
        sign = code.and_(code.shl(codes, fill(I32, lanes, 28)), fill(I32, lanes, -(1 << 31)))
        return code.bitcast(code.or_(code.bitcast(positive, vector(I32, lanes)), sign), vector(F32, lanes))

    if host.lookup:
        return lambda codes: signed(codes, code.look_up(table, codes))

    def value(codes: Value) -> Value:
        size = code.and_(codes, fill(I32, lanes, 7))
        # Sizes from 2 on are normal: their two exponent bits and one mantissa bit only need float32's bias.
        normal = code.bitcast(
            code.add(code.shl(size, fill(I32, lanes, 22)), fill(I32, lanes, 126 << 23)), vector(F32, lanes)
        )
        small = code.fmul(code.sitofp(size, vector(F32, lanes)), fill(F32, lanes, 0.5))
        positive = code.select(code.icmp_unsigned("<", size, fill(I32, lanes, 2)), small, normal)
        return code.fmul(signed(codes, positive), scale)

    return value


def emit_product(module: ir.Module, host: Host, weight: Weight) -> Code:
    """A function y[t, o] = x[t] . w[o] + bias[o] for `tokens` rows of x and `outs` rows of w.

    Parameters: weight, scales, table, bias (or null), x, x_rows, y, y_rows, x_stride, y_stride, inner, outs, tokens.
    Pointers point to the first row and output that are meant; strides count values. `x_rows` and `y_rows` say which row
    a token's is, int64; null: they follow each other.
    """
    code = Code(module, f"product_{weight.name}", [PTR] * 8 + [INT] * 5)
    w, scales, table, bias, x, x_rows, y, y_rows, x_stride, y_stride, inner, outs, tokens = code.arguments
    even = code.and_(outs, const(-host.rows))
    row_bytes, row_scales = weight.row_bytes(code, inner), weight.row_scales(code, inner)
    tiles = {some: _emit_tile(module, host, weight, host.rows, some) for some in range(1, host.tokens + 1)}
    single = _emit_tile(module, host, weight, 1, 1)
    counting = ir.GlobalVariable(module, ir.ArrayType(INT, host.tokens), f"counting_{weight.name}")
    counting.initializer, counting.global_constant = ir.Constant(counting.value_type, list(range(host.tokens))), True

    def rows_from(base: Value, rows: Value, stride: Value, first: Value) -> tuple[Value, Value]:
        """Where token `first` and those behind it are: a base, and an array of rows to count from there."""
        listed = code.icmp_unsigned("!=", code.ptrtoint(rows, INT), const(0))
        start = code.select(listed, const(0), code.mul(first, stride))
        return code.at(base, start, F32), code.select(listed, code.at(rows, first, INT), counting)

    def call(tile: Code, out: Value, x_from: tuple[Value, Value], y_from: tuple[Value, Value]) -> None:
        w_here = code.at(w, code.mul(out, row_bytes), I8)
        scales_here = code.at(scales, code.mul(out, row_scales), I8)
        places = [w_here, scales_here, table, bias, *x_from, code.at(y_from[0], out, F32), y_from[1]]
        code.call(tile.made, [*places, x_stride, y_stride, inner, out])

    def some_tokens(first: Value, count: int) -> None:
        froms = rows_from(x, x_rows, x_stride, first), rows_from(y, y_rows, y_stride, first)
        code.each(const(0), even, host.rows, lambda out: call(tiles[count], out, *froms))

        def one_token(token: Value) -> None:
            froms = rows_from(x, x_rows, x_stride, token), rows_from(y, y_rows, y_stride, token)
            code.each(even, outs, 1, lambda out: call(single, out, *froms))

        code.each(first, code.add(first, const(count)), 1, one_token)

    code.in_tiles(tokens, host.tokens, some_tokens)
    code.ret_void()
    return code


def _emit_tile(module: ir.Module, host: Host, weight: Weight, rows: int, tokens: int) -> Code:
    code = Code(module, f"tile_{weight.name}_{rows}_{tokens}", [PTR] * 8 + [INT] * 4)
    w, scales, table, bias, x, x_rows, y, y_rows, x_stride, y_stride, inner, out = code.arguments
    x_at, y_at = (
        [code.at(base, code.mul(code.get(index, const(t), INT), stride), F32) for t in range(tokens)]
        for base, index, stride in ((x, x_rows, x_stride), (y, y_rows, y_stride))
    )
    sums = weight.sums(code, host, Place(w, scales, table, x_at, inner), rows)
    none = ir.GlobalVariable(module, vector(F32, rows), f"no_bias_{code.made.name}")
    none.initializer, none.global_constant = fill(F32, rows, 0), True
    given = code.icmp_unsigned("!=", code.ptrtoint(bias, INT), const(0))
    bias_at = code.select(given, code.at(bias, out, F32), none)
    offsets = code.get(bias_at, const(0), F32, rows)
    for token, y_here in enumerate(y_at):
        total = code.lane_sums(sums[token * rows : (token + 1) * rows])
        code.put(code.fadd(total, offsets), y_here, const(0))
    code.ret_void()
    return code
