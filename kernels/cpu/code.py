"""Writing vector code: llvmlite's builder with loops, vectors and OpenMP in the few forms that the kernels need.

Everything is in static single assignment: a loop takes the values it carries and returns what they have become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from llvmlite.ir import Value

PTR = ir.PointerType()
INT = ir.IntType(64)
I32 = ir.IntType(32)
I16 = ir.IntType(16)
I8 = ir.IntType(8)
F16 = ir.HalfType()
F32 = ir.FloatType()
F64 = ir.DoubleType()
VOID = ir.VoidType()

Body = Callable[[Value, list[Value]], Sequence[Value]]


def vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(kind, lanes)


def const(value: int) -> ir.Constant:
    return ir.Constant(INT, value)


def fill(kind: ir.Type, lanes: int, value: float) -> ir.Constant:
    """A constant vector with the same value in each lane."""
    return ir.Constant(vector(kind, lanes), [value] * lanes)


class Code(ir.IRBuilder):
    """The body of one new function, `arguments` its parameters. Functions other than `entry` stay private."""

    def __init__(self, module: ir.Module, name: str, kinds: Sequence[ir.Type], result: ir.Type = VOID) -> None:
        self.made = ir.Function(module, ir.FunctionType(result, kinds), name)
        if name != "entry":
            self.made.linkage = "internal"
            self.made.attributes.add("noinline")
        super().__init__(self.made.append_basic_block())
        self.arguments = list(self.made.args)

    # Memory

    def at(self, base: Value, index: Value, kind: ir.Type) -> Value:
        return self.gep(base, [index], source_etype=kind)

    def get(self, base: Value, index: Value, kind: ir.Type, lanes: int = 0) -> Value:
        """`lanes` neighbouring values from `base[index]` on; 0: one value, as a scalar."""
        where = self.at(base, index, kind)
        return self.load(where, typ=vector(kind, lanes) if lanes else kind, align=_bytes(kind))

    def put(self, value: Value, base: Value, index: Value) -> None:
        kind = value.type.element if isinstance(value.type, ir.VectorType) else value.type
        self.store(value, self.at(base, index, kind), align=_bytes(kind))

    def room(self, kind: ir.Type, count: Value) -> Value:
        """Memory on this function's stack; to be asked for outside of loops."""
        made = self.alloca(kind, size=count)
        made.type = PTR  # llvmlite still gives it the type of what it points to
        return made

    def prefetch(self, base: Value, index: Value, kind: ir.Type) -> None:
        """Bring a line near; the address need not be valid."""
        reading, near, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
        self._intrinsic("llvm.prefetch.p0", VOID, [self.at(base, index, kind), reading, near, data])

    # Control

    def loop(self, start: Value, stop: Value, step: int, carried: Sequence[Value], body: Body) -> list[Value]:
        """for i in range(start, stop, step): carried = body(i, carried). Returns carried."""
        before = self.block
        head, inside, after = (self.append_basic_block(name) for name in ("head", "inside", "after"))
        self.branch(head)
        self.position_at_end(head)
        phis = [self.phi(value.type) for value in (start, *carried)]
        for phi, value in zip(phis, (start, *carried), strict=True):
            phi.add_incoming(value, before)
        self.cbranch(self.icmp_signed("<", phis[0], stop), inside, after)
        self.position_at_end(inside)
        results = body(phis[0], phis[1:])
        for phi, value in zip(phis, (self.add(phis[0], const(step)), *results), strict=True):
            phi.add_incoming(value, self.block)
        self.branch(head)
        self.position_at_end(after)
        return phis[1:]

    def each(self, start: Value, stop: Value, step: int, visit: Callable[[Value], None]) -> None:
        """for i in range(start, stop, step): visit(i)"""

        def body(i: Value, _: list[Value]) -> list[Value]:
            visit(i)
            return []

        self.loop(start, stop, step, [], body)

    def sweep(self, count: Value, lanes: int, visit: Callable[[Value, int], None]) -> None:
        """visit(i, lanes) for whole vectors of `count` values, visit(i, 1) for each of the rest."""
        even = self.and_(count, const(-lanes))
        self.each(const(0), even, lanes, lambda i: visit(i, lanes))
        self.each(even, count, 1, lambda i: visit(i, 1))

    def in_tiles(self, count: Value, most: int, visit: Callable[[Value, int], None]) -> None:
        """Cut [0, count) into the fewest runs of near-equal length, at most `most`: visit(first, length) for each.

        Emits a case for every length.
        """
        before = self.block
        head, cut, over = (self.append_basic_block(name) for name in ("cuts", "cut", "over"))
        self.branch(head)
        self.position_at_end(head)
        first = self.phi(INT)
        first.add_incoming(const(0), before)
        self.cbranch(self.icmp_signed("<", first, count), cut, over)
        self.position_at_end(cut)
        left = self.sub(count, first)
        length = self.ceil_div(left, self.ceil_div(left, const(most)))
        choice = self.switch(length, over)
        for some in range(1, most + 1):
            case = self.append_basic_block(f"length_{some}")
            choice.add_case(const(some), case)
            self.position_at_end(case)
            visit(first, some)
            first.add_incoming(self.add(first, const(some)), self.block)
            self.branch(head)
        self.position_at_end(over)

    def take_turns(self, counter: Value, count: Value, body: Callable[[Value], None]) -> None:
        """Run body(i) for the items in [0, count) that no other thread has taken: fast threads take more."""
        head, inside, after = (self.append_basic_block(name) for name in ("turn", "taken", "over"))
        self.branch(head)
        self.position_at_end(head)
        item = self.atomic_rmw("add", counter, const(1), "monotonic")
        self.cbranch(self.icmp_signed("<", item, count), inside, after)
        self.position_at_end(inside)
        body(item)
        self.branch(head)
        self.position_at_end(after)

    def parallel(self, worker: Code, arguments: Value, num_threads: Value) -> None:
        """Run `worker(arguments)` on `num_threads` threads of torch's OpenMP and wait for all of them."""
        with self.if_else(self.icmp_signed(">", num_threads, I32(1))) as (several, one):
            with several:
                self._intrinsic("GOMP_parallel", VOID, [worker.made, arguments, num_threads, I32(0)])
            with one:
                self.call(worker.made, [arguments])

    # Arithmetic

    def ceil_div(self, value: Value, by: Value) -> Value:
        return self.udiv(self.add(value, self.sub(by, const(1))), by)

    def minimum(self, x: Value, y: Value) -> Value:
        return self.select(self.icmp_signed("<", x, y), x, y)

    def root(self, x: Value) -> Value:
        return self._intrinsic("llvm.sqrt.f32", F32, [x])

    def multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        return self._intrinsic(f"llvm.fmuladd.v{x.type.count}f32", x.type, [x, y, z])

    def look_up(self, table: Value, index: Value) -> Value:
        """table[index % lanes] lane by lane: of 16 lanes AVX-512 has it, of 8 AVX2."""
        name = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}[table.type.count]
        return self._intrinsic(name, table.type, [table, index])

    def at_most(self, x: Value, bound: Value) -> Value:
        return self.select(self.fcmp_ordered(">", x, bound), bound, x)  # NaN stays

    def at_least(self, x: Value, bound: Value) -> Value:
        return self.select(self.fcmp_ordered("<", x, bound), bound, x)

    def exp(self, x: Value) -> Value:
        """e^x to about 1 unit in the last place, x clamped to ±87: x = n ln 2 + r, a polynomial in r, times 2^n."""
        lanes = x.type.count

        def number(value: float) -> Value:
            return fill(F32, lanes, value)

        x = self.at_least(self.at_most(x, number(87.0)), number(-87.0))
        # Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        shifted = self.multiply_add(x, number(1.4426950408889634), number(12582912.0))
        n = self.fsub(shifted, number(12582912.0))
        r = self.multiply_add(n, number(-0.693145751953125), x)  # ln 2 in two parts, the first exact in 12 bits
        r = self.multiply_add(n, number(-1.428606765330187e-06), r)
        total = number(1 / 5040)
        for k in (720, 120, 24, 6, 2, 1, 1):
            total = self.multiply_add(total, r, number(1 / k))
        power = self.shl(self.bitcast(shifted, vector(I32, lanes)), fill(I32, lanes, 23))
        return self.bitcast(self.add(self.bitcast(total, vector(I32, lanes)), power), vector(F32, lanes))

    def splat(self, scalar: Value, lanes: int) -> Value:
        one = self.first_lane(scalar, lanes)
        return self.shuffle_vector(one, one, fill(I32, lanes, 0))

    def first_lane(self, scalar: Value, lanes: int) -> Value:
        """A vector of zeros but for lane 0."""
        return self.insert_element(fill(scalar.type, lanes, 0), scalar, ir.Constant(I32, 0))

    def pick(self, x: Value, y: Value, lanes: Sequence[int]) -> Value:
        return self.shuffle_vector(x, y, ir.Constant(vector(I32, len(lanes)), list(lanes)))

    def pair_sums(self, x: Value, y: Value) -> Value:
        """Sums of neighbouring lanes: first those of x, then those of y."""
        span = 2 * x.type.count
        return self.fadd(self.pick(x, y, range(0, span, 2)), self.pick(x, y, range(1, span, 2)))

    def across(self, x: Value, merge: Callable[[Value, Value], Value]) -> Value:
        """All lanes of one vector merged into a scalar."""
        while (lanes := x.type.count) > 1:
            x = merge(self.pick(x, x, range(0, lanes, 2)), self.pick(x, x, range(1, lanes, 2)))
        return self.extract_element(x, I32(0))

    def lane_sums(self, vectors: list[Value]) -> Value:
        """The sum over the lanes of each of 1 or 4 vectors, as one vector of 1 or 4 lanes."""
        count = len(vectors)
        while len(vectors) > 1:
            vectors = [self.pair_sums(x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
        (total,) = vectors
        while (lanes := total.type.count) > count:
            total = self.fadd(self.pick(total, total, range(0, lanes, 2)), self.pick(total, total, range(1, lanes, 2)))
        return total

    def _intrinsic(self, name: str, result: ir.Type, values: list[Value]) -> Value:
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(result, [value.type for value in values]), name)
        return self.call(known, values)


def _bytes(kind: ir.Type) -> int:
    if isinstance(kind, ir.IntType):
        return kind.width // 8
    return {F16: 2, F32: 4}.get(kind, 8)
