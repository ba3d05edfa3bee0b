"""Outputs that follow a grammar: every one that ends is right, whatever else is in the batch."""

from __future__ import annotations

import json
import random
import re
import time

import pytest
import torch
from tokenizers import Tokenizer

from yardmaster.cache.manager import CacheManager
from yardmaster.engine.build import build_executor
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.grammar import GrammarCompiler, GrammarError
from yardmaster.engine.leader import Leader
from yardmaster.engine.messages import Abort, FromEngine, Outputs, RequestOutput, Shutdown, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import Scheduler, SchedulerConfig
from yardmaster.kernels.reference.sampling import forbid_others
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.control import Control
from yardmaster.parallel.mesh import Mesh

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "minimum": 3, "maximum": 41},
        "kinds": {"type": "array", "items": {"enum": ["a", "bc", None]}, "maxItems": 3},
    },
    "required": ["name", "size", "kinds"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = f"start: %json {json.dumps(SCHEMA)}"
DIGITS = 'start: /[0-9]{3}-[0-9]{2}/ | "none"'
HARMONY = 'start: <|channel|> "final" <|message|> ("yes" | "no") <|return|>'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("grammar")
    write_random_checkpoint(directory, small_gpt_oss(num_layers=2, num_experts=4, vocab_size=1031), experts="mxfp4")
    return directory


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


class Wire:
    def __init__(self, messages: list[object], wanted: int) -> None:
        self.messages, self.wanted = messages, wanted
        self.heard: dict[str, list[RequestOutput]] = {}

    def receive(self, timeout_seconds: float) -> list:
        if self.wanted <= 0:
            return [Shutdown()]
        some, self.messages = self.messages[:7], self.messages[7:]
        if not some:
            time.sleep(timeout_seconds)
        return some

    def send(self, message: FromEngine) -> None:
        assert isinstance(message, Outputs)
        for output in message.outputs:
            self.heard.setdefault(output.request_id, []).append(output)
            self.wanted -= output.finish_reason is not None


def run(checkpoint, messages, wanted, *, ahead=False, **limits):
    config = EngineConfig(
        model=str(checkpoint),
        device="cpu",
        max_model_len=256,
        scheduler=SchedulerConfig(max_num_seqs=6, max_num_batched_tokens=256, max_model_len=256),
        async_scheduling=ahead,
        page_size=4,
    )
    built = build_executor(config, Mesh.single("cpu"), lambda line: None)
    wire = Wire(messages, wanted)
    scheduler = Scheduler(config.scheduler, CacheManager(built.cache_spec), ahead=built.ahead)
    control = Control(Mesh.single("cpu"))
    Leader(0, scheduler, built.executor, control, wire, idle_beat=0.01, grammars=built.grammars).run()
    assert not scheduler.has_work
    return wire.heard


def submit(name: str, grammar: str | None, **params) -> Submit:
    return Submit(
        request_id=name,
        prompt_token_ids=[5, 6, 7],
        params=SamplingParams(**{"max_tokens": 200, "temperature": 1.0, "seed": hash(name), **params}),
        eos_token_ids=(special("<|return|>"),),
        grammar=grammar,
    )


def special(name: str) -> int:
    from yardmaster.weights.tokenizer_writer import special_ids

    return special_ids(1031)[name]


def text_of(tokenizer, outputs: list[RequestOutput]) -> str:
    ids = [token for output in outputs for token in output.token_ids]
    return tokenizer.decode([token for token in ids if token != special("<|return|>")], skip_special_tokens=False)


@pytest.mark.parametrize("ahead", [False, True])
def test_every_answer_follows_its_grammar(checkpoint, tokenizer, ahead):
    kinds = {"json": JSON, "digits": DIGITS, "harmony": HARMONY, "free": None}
    messages = [
        submit(f"{kind}{i}", grammar, seed=random.getrandbits(40), temperature=random.choice([0.0, 1.0, 3.0]))
        for i in range(8)
        for kind, grammar in kinds.items()
    ]
    random.shuffle(messages)
    heard = run(checkpoint, messages, len(messages), ahead=ahead)
    assert len(heard) == len(messages)
    for name, outputs in heard.items():
        text = text_of(tokenizer, outputs)
        if name.startswith("free"):
            continue
        assert outputs[-1].finish_reason == "stop", text
        if name.startswith("json"):
            value = json.loads(text)
            assert list(value) == ["name", "size", "kinds"]
            assert len(value["name"]) <= 6
            assert 3 <= value["size"] <= 41
            assert all(kind in ("a", "bc", None) for kind in value["kinds"])
        elif name.startswith("digits"):
            assert re.fullmatch(r"[0-9]{3}-[0-9]{2}|none", text)
        else:
            assert text in ("<|channel|>final<|message|>yes", "<|channel|>final<|message|>no")
    free = [message for message in messages if message.grammar is None]
    alone = run(checkpoint, list(free), len(free))
    for message in free:
        mine, others = ([t for o in x[message.request_id] for t in o.token_ids] for x in (alone, heard))
        assert mine == others


def test_a_grammar_rules_over_min_tokens_and_knows_log_probabilities(checkpoint, tokenizer):
    heard = run(checkpoint, [submit("a", HARMONY, min_tokens=50, logprobs=2, presence_penalty=1.5)], 1)
    assert text_of(tokenizer, heard["a"]).startswith("<|channel|>final<|message|>")
    assert heard["a"][-1].finish_reason == "stop"
    assert all(len(output.logprobs or []) == 1 for output in heard["a"])


@pytest.mark.parametrize("at_least", [0, 20])
def test_the_end_of_a_grammar_ends_the_answer_whatever_else_its_token_is(checkpoint, tokenizer, at_least):
    end = special("<|return|>")
    heard = run(checkpoint, [submit("a", HARMONY, min_tokens=at_least, stop_token_ids=(end,))], 1)
    assert text_of(tokenizer, heard["a"]) in ("<|channel|>final<|message|>yes", "<|channel|>final<|message|>no")
    assert [token for output in heard["a"] for token in output.token_ids].count(end) == 1
    assert heard["a"][-1].finish_reason == "stop"
    assert heard["a"][-1].stop_reason is None  # an end token of the model's own


def test_what_cannot_be_compiled_is_refused_and_disturbs_nobody(checkpoint):
    bad = {
        "syntax": "start: (",
        "no start": 'other: "a"',
        "reference": 'start: %json {"$ref": "#/nowhere"}',
        "contradiction": 'start: %json {"type": "object", "minProperties": 5, "maxProperties": 2}',
    }
    messages = [submit(name, grammar) for name, grammar in bad.items()]
    heard = run(checkpoint, [*messages, submit("good", DIGITS), submit("free", None, max_tokens=3)], len(bad) + 2)
    for name in bad:
        (output,) = heard[name]
        assert output.finish_reason == "error", name
        assert output.error
        assert "\n" not in output.error
        assert not output.token_ids
    assert heard["good"][-1].finish_reason == "stop"
    assert heard["free"][-1].finish_reason in ("length", "stop")


def test_abort_while_compiling(checkpoint):
    heard = run(checkpoint, [submit("a", JSON), Abort("a"), submit("b", DIGITS)], 1)
    assert list(heard) == ["b"]


def test_an_engine_without_a_tokenizer_refuses(tmp_path):
    compiler = GrammarCompiler(tmp_path / "tokenizer.json", 100, (1,))
    with pytest.raises(GrammarError, match="tokenizer"):
        compiler.compile(DIGITS)


def test_compiled_grammars_are_kept_but_not_shared(checkpoint):
    compiler = GrammarCompiler(checkpoint / "tokenizer.json", 1031, (special("<|return|>"),))
    one, other = compiler.compile(HARMONY), compiler.compile(HARMONY)
    one.accept(special("<|channel|>"))
    with pytest.raises(GrammarError):
        one.accept(special("<|channel|>"))
    other.accept(special("<|channel|>"))
    assert not other.ended
    for i in range(300):
        compiler.compile(f'start: "{i}"')
    assert len(compiler._compiled) == 256


def test_forbid_others():
    for vocab in (1, 31, 32, 33, 100):
        logits = torch.randn(4, vocab)
        words = torch.randint(-(1 << 31), 1 << 31, (2, -(-vocab // 32)), dtype=torch.int64).to(torch.int32)
        rows = torch.tensor([3, 1])
        want = logits.clone()
        for row, line in zip([3, 1], words.tolist(), strict=True):
            for v in range(vocab):
                if not line[v // 32] >> (v % 32) & 1:
                    want[row, v] = float("-inf")
        forbid_others(logits, rows, words)
        assert torch.equal(logits, want)
