"""A scheduler and its requests, over ranks that simulate their pages cell by cell.

`FakeRanks` sees only plans. It writes (owner, position, token) into physical cells by the rule of cache/manager.py,
reads them back, and fails when a read meets anything but the right position of the request that sits in the slot. Its
model hashes the tokens that it has read, so a wrong page would also change the output, which is compared with a run
that knows no pages, no steps and no other requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from yardmaster.cache.budget import most_pages
from yardmaster.cache.manager import CacheManager
from yardmaster.cache.spec import CacheSpec, GroupSpec
from yardmaster.engine.messages import RequestOutput, Submit, TokenLogprob
from yardmaster.engine.plan import EMPTY, PENDING, Share, StepPlan
from yardmaster.engine.request import Request, Status
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import QueueFull, Scheduler, SchedulerConfig
from yardmaster.engine.step import StepOutput

VOCAB = 43
EOS = 3
MAX_WAITING = 6


def model(contexts: list[list[int]]) -> int:
    """The next token, from the tokens that the last position sees in each cache group."""
    return int.from_bytes(blake2b(repr(contexts).encode(), digest_size=4).digest(), "big") % VOCAB


def score(position: int, token: int) -> TokenLogprob:
    return TokenLogprob(token, -(position + token / 100), 1, [(k, -float(k)) for k in range(5)])


class FakeRanks:
    def __init__(self, spec: CacheSpec, max_num_seqs: int) -> None:
        self.spec = spec
        self.owners = [0] * max_num_seqs
        self.seats = 0
        self.tables: list[list[dict[int, int]]] = [[{} for _ in range(max_num_seqs)] for _ in spec.groups]
        self.cells: list[dict[tuple[int, int], tuple[int, int, int]]] = [{} for _ in spec.groups]
        self.last: dict[int, int] = {}  # what each slot sampled last

    def execute(self, plan: StepPlan) -> StepOutput:
        shares = [
            msgspec.structs.replace(share, token_ids=[self.last[share.slot]]) if share.token_ids == [PENDING] else share
            for share in plan.shares
        ]
        plan = StepPlan(shares)
        counts = [share.count for share in plan.shares]
        slots = [share.slot for share in plan.shares]
        assert len(set(slots)) == len(slots)
        assert all(counts)
        assert counts == [n for n in counts if n == 1] + [n for n in counts if n > 1]
        for share in plan.shares:
            self.seat(share)
        seen: list[list[list[int]]] = [[] for _ in plan.shares]  # by share and group: what its last position sees
        for group, spec in enumerate(self.spec.groups):
            for share, contexts in zip(plan.shares, seen, strict=True):
                if share.count > 1:  # before anything is written
                    begin = 0 if spec.window is None else max(0, share.start - (spec.window - 1))
                    prior = [self.read(group, share.slot, p) for p in range(begin, share.start)]
                    tokens = prior + share.token_ids
                    contexts.append(tokens if spec.window is None else tokens[-spec.window :])
            written: set[tuple[int, int]] = set()
            for share in plan.shares:
                end, begin = share.start + share.count, share.start
                if spec.window is not None and share.count > 1:
                    begin = max(begin, end - (spec.window - 1))
                for position in range(begin, end):
                    cell = self.cell(group, share.slot, position)
                    assert cell not in written, "two positions of one step in one cell"
                    written.add(cell)
                    token = share.token_ids[position - share.start]
                    self.cells[group][cell] = (self.owners[share.slot], position, token)
            for share, contexts in zip(plan.shares, seen, strict=True):
                if share.count == 1:  # after all has been written
                    begin = 0 if spec.window is None else max(0, share.start - (spec.window - 1))
                    contexts.append([self.read(group, share.slot, p) for p in range(begin, share.start + 1)])
        tokens = [model(contexts) for share, contexts in zip(plan.shares, seen, strict=True) if share.sample]
        scored = {}
        for share in plan.shares:
            if share.prompt_logprobs:
                targets = share.token_ids[1:] + ([] if share.following is None else [share.following])
                scored[share.slot] = [score(share.start + i, token) for i, token in enumerate(targets)]
        self.last |= dict(zip((share.slot for share in plan.shares if share.sample), tokens, strict=True))
        logprobs = [TokenLogprob(token, -float(token), 1, []) for token in tokens]
        return StepOutput(tokens, list(logprobs), scored)

    def seat(self, share: Share) -> None:
        if share.start == 0:
            self.seats += 1
            self.owners[share.slot] = self.seats
            for tables in self.tables:
                tables[share.slot].clear()
        for group, grant in enumerate(share.grants):
            for i, page in enumerate(grant.pages):
                assert 0 <= page < self.spec.groups[group].num_pages
                self.tables[group][share.slot][grant.first + i] = page

    def cell(self, group: int, slot: int, position: int) -> tuple[int, int]:
        size = self.spec.page_size
        return self.tables[group][slot][position // size], position % size

    def read(self, group: int, slot: int, position: int) -> int:
        owner, at, token = self.cells[group][self.cell(group, slot, position)]
        assert (owner, at) == (self.owners[slot], position)
        return token


@dataclass
class Followed:
    submit: Submit
    tokens: list[int] = field(default_factory=list)
    outputs: list[RequestOutput] = field(default_factory=list)
    aborted: bool = False


def oracle(submit: Submit, windows: list[int | None], max_model_len: int) -> tuple[list[int], str, int | None]:
    """The whole output of a request, its finish reason and stop reason, one token after the other from scratch."""
    params, sequence = submit.params, list(submit.prompt_token_ids)
    while True:
        sequence.append(model([sequence if window is None else sequence[-window:] for window in windows]))
        output = sequence[len(submit.prompt_token_ids) :]
        if len(output) >= params.min_tokens:
            if output[-1] == EOS and not params.ignore_eos:
                return output, "stop", None
            if output[-1] in params.stop_token_ids:
                return output, "stop", output[-1]
        if len(output) == params.max_tokens or len(sequence) == max_model_len:
            return output, "length", None


class Yard:
    """A scheduler, its fake ranks, and every check on what they do. Each verb is one event."""

    def __init__(
        self,
        page_size: int,
        windows: tuple[int | None, ...],
        tight: list[int],
        max_num_seqs: int,
        spare_budget: int,
        max_model_len: int,
        ahead: int,
    ) -> None:
        self.windows = list(windows)
        # Most pools hold one of the longest requests and little else: only then are requests preempted.
        spec = CacheSpec(
            page_size,
            tuple(
                GroupSpec(f"g{i}", (i,), window, max(1, most_pages(max_model_len, window, page_size) + tight[i]))
                for i, window in enumerate(windows)
            ),
        )
        self.config = SchedulerConfig(max_num_seqs, max_num_seqs + spare_budget, max_model_len, MAX_WAITING)
        self.now = 0.0
        self.scheduler = Scheduler(self.config, CacheManager(spec), clock=lambda: self.now, ahead=ahead)
        self.ranks = FakeRanks(spec, max_num_seqs)
        self.followed: dict[str, Followed] = {}
        self.live: list[str] = []
        self.plans: list[StepPlan] = []  # in flight, the oldest first, and what those that have run brought
        self.outputs: list[StepOutput] = []

    def add(self, prompt: list[int], priority: int, late: float, params: SamplingParams) -> None:
        self.now += 1.0
        submit = Submit(
            request_id=f"r{len(self.followed)}",
            prompt_token_ids=prompt,
            params=params,
            eos_token_ids=(EOS,),
            arrival=self.now - late,
            priority=priority,
        )
        stats = self.scheduler.stats()
        try:
            self.scheduler.add(Request(submit, 0))
        except QueueFull:
            assert stats.running + stats.waiting >= self.config.max_num_seqs + MAX_WAITING
        except ValueError:
            assert not self.could_run(submit)
        else:
            assert self.could_run(submit)
            assert stats.running + stats.waiting < self.config.max_num_seqs + MAX_WAITING
            self.followed[submit.request_id] = Followed(submit)
            self.live.append(submit.request_id)

    def could_run(self, submit: Submit) -> bool:
        """By trying: alone, token by token (the most pages that any way of cutting needs), in a cache of its own."""
        length = len(submit.prompt_token_ids)
        if length >= self.config.max_model_len:
            return False
        alone = CacheManager(self.scheduler.cache.spec)
        most = min(length + submit.params.max_tokens, self.config.max_model_len) - 1
        return all(alone.extend("x", position, 1) is not None for position in range(most))

    def abort(self, request_id: str) -> None:
        assert self.scheduler.abort(request_id)
        assert not self.scheduler.abort(request_id)
        self.followed[request_id].aborted = True
        self.live.remove(request_id)

    def schedule(self) -> None:
        self.now += 1.0
        before, preemptions = set(self.scheduler._running), self.scheduler.stats().preemptions
        had_work = self.scheduler.has_work
        assert had_work == bool(self.live)
        plan = self.scheduler.schedule()
        assert bool(plan.shares) == had_work or self.plans, "a step without progress"
        assert plan.num_tokens <= self.config.max_num_batched_tokens
        planned = [one.request for one in self.scheduler._in_flight[-1].planned] if plan.shares else []
        running, waiting = self.scheduler._running, self.scheduler._waiting
        if had_work:
            first = min(running, key=lambda r: r.order)
            done = not self.plans or first.may_continue(self.config.max_model_len)
            assert first in planned or not done, "the first in order stands still"
        assert all(request.status is Status.RUNNING for request in planned), "a preempted request keeps its share"
        admitted = [request for request in planned if request not in before]
        assert not admitted or self.scheduler.stats().preemptions == preemptions, "let in where there is no room"
        if admitted and waiting:
            assert max(r.order for r in admitted) < min(r.order for r in waiting), "jumped the queue"
        for share, request in zip(plan.shares, planned, strict=True):
            end = share.start + share.count
            known = request.prompt + request.output
            waits = end == len(known) + 1
            assert share.token_ids == (known + [PENDING] * waits)[share.start : end]
            assert share.sample == (end >= len(known))
            assert not waits or (self.plans and not request.params.looks_back)
        if plan.shares:
            assert len(self.scheduler.rows(plan)) == sum(share.sample for share in plan.shares)
            self.plans.append(plan)

    def execute(self) -> None:
        self.outputs.append(self.ranks.execute(self.plans[len(self.outputs)]))

    def advance(self) -> None:
        for output in self.scheduler.advance(self.plans.pop(0), self.outputs.pop(0)):
            followed = self.followed[output.request_id]
            assert output.request_id in self.live, "an output after the last one"
            followed.outputs.append(output)
            followed.tokens += output.token_ids
            assert [one.token_id for one in output.logprobs or []] == output.token_ids
            if output.finish_reason is not None:
                self.live.remove(output.request_id)
                self.check(followed)

    def step(self) -> None:
        """Go on from wherever the oldest step in flight is, to its end."""
        if not self.plans:
            self.schedule()
        if self.plans:
            if not self.outputs:
                self.execute()
            self.advance()
        self.pages_are_accounted_for()

    def check(self, followed: Followed) -> None:
        last = followed.outputs[-1]
        expected = oracle(followed.submit, self.windows, self.config.max_model_len)
        assert (followed.tokens, last.finish_reason, last.stop_reason) == expected
        first, *rest = followed.outputs
        prompt, wanted = followed.submit.prompt_token_ids, followed.submit.params.prompt_logprobs
        if wanted is None:
            assert first.prompt_logprobs is None
        else:
            full = [score(p, token) for p, token in enumerate(prompt[1:])]
            cut = [TokenLogprob(one.token_id, one.logprob, one.rank, one.top[:wanted]) for one in full]
            assert first.prompt_logprobs == [None, *cut]
        assert first.queue_seconds is not None
        assert first.queue_seconds > 0
        assert all(output.queue_seconds is None and output.prompt_logprobs is None for output in rest)

    def pages_are_accounted_for(self) -> None:
        cache = self.scheduler.cache
        assert set(cache._tables) == {request.request_id for request in self.scheduler._running}
        for group, pool in enumerate(cache.pools):
            tables = [tables[group] for tables in cache._tables.values()]
            pages = [page for table in tables for page in table.pages]
            assert len(pages) == len(set(pages)) == pool.used, "shared or leaked"
            assert pool.used + pool.free == pool.num_pages
            window = self.windows[group]
            for table in tables:
                assert table.stop - table.first == len(table.pages)
                if window is not None:
                    assert len(table.pages) <= -(-window // cache.page_size) + 1
        slots = [request.slot for request in self.scheduler._running] + self.scheduler._slots
        assert sorted(slots) == list(range(self.config.max_num_seqs))

    def drain(self) -> None:
        """Every request ends. The first in order gains a token a step, so this many steps are enough."""
        for _ in range(len(self.live) * self.config.max_model_len + 2):
            if self.live or self.plans:
                self.step()
        assert not self.live, "a request does not end"
        assert self.scheduler.schedule() == EMPTY
        stats = self.scheduler.stats()
        assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0.0)
        assert all(followed.aborted or followed.outputs[-1].finish_reason for followed in self.followed.values())
        assert stats.generation_tokens == sum(len(followed.tokens) for followed in self.followed.values())
        began = [f for f in self.followed.values() if f.outputs]
        assert stats.prompt_tokens == sum(len(f.submit.prompt_token_ids) for f in began)
