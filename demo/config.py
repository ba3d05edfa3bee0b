"""What to train and how, read from a TOML file: demo/default.toml and deeper.toml are the embedded model's."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..layers.rope_config import RopeConfig
from ..models.config import ModelConfig
from ..models.random_checkpoint import small_gpt_oss
from .tasks.mix import Mix

DEFAULT = Path(__file__).with_name("default.toml")


@dataclass(frozen=True, slots=True)
class Shape:
    """The model. `attention` are the layers' kinds in turn, repeated over all of them.

    `dense_layers`, counted from 0, have one gated product of `dense_width` in place of a mixture of experts.
    """

    layers: int = 6
    hidden: int = 192
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 32
    experts_per_token: int = 4
    expert_width: int = 64
    attention: tuple[str, ...] = ("sliding_attention", "full_attention")
    sliding_window: int = 32
    rope_theta: float = 10000.0
    rope_factor: float = 4.0
    original_context: int = 1024
    context: int = 4096
    tied: bool = False
    dense_layers: tuple[int, ...] = ()
    dense_width: int = 0

    def model(self, vocab_size: int) -> ModelConfig:
        """The same as what a checkpoint's config.json says."""
        return small_gpt_oss(
            vocab_size=vocab_size,
            hidden_size=self.hidden,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            num_experts=self.experts,
            experts_per_token=self.experts_per_token,
            expert_width=self.expert_width,
            layer_types=tuple(self.attention[layer % len(self.attention)] for layer in range(self.layers)),
            sliding_window=self.sliding_window,
            rope=RopeConfig(
                self.rope_theta,
                kind="yarn",
                factor=self.rope_factor,
                original_max_position=self.original_context,
                truncate=False,
            ),
            max_position=self.context,
            tie_word_embeddings=self.tied,
            dense_layers=self.dense_layers,
            dense_width=self.dense_width,
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """The training. `tokens` of conversations in a step, beside the system messages that they share."""

    seed: int = 1
    steps: int = 9000
    tokens: int = 4096
    learning_rate: float = 2e-3
    warm_up: int = 100
    least_rate: float = 0.1  # of the learning rate, where the cosine ends
    weight_decay: float = 0.05
    clip: float = 1.0
    router_aux_loss_coef: float = 0.02
    mxfp4_from: float = 0.93  # of the steps: from there on experts compute with what MXFP4 will leave of them
    evaluate_every: int = 1000
    evaluate_on: int = 24  # held-out conversations a kind and effort
    save_every: int = 250


@dataclass(frozen=True, slots=True)
class DemoConfig:
    shape: Shape = field(default_factory=Shape)
    train: Schedule = field(default_factory=Schedule)
    vocabulary: int = 3000  # tokens that BPE learns beside bytes; those that are whole words stay
    mix: dict[str, float] = field(default_factory=dict)  # how often kinds are drawn, where not as usual

    @classmethod
    def read(cls, path: Path) -> DemoConfig:
        """Raises ValueError, naming the field, for what is unknown or of another type."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
        shape, train = (_table(kind, found.pop(name, {}), f"{path}: {name}") for kind, name in _TABLES)
        mix = _weights(found.pop("mix", {}), f"{path}: mix")
        return cls(shape, train, mix=mix, **_checked(cls, found, str(path)))


_TABLES = ((Shape, "shape"), (Schedule, "train"))


def _table(kind: Any, found: Any, where: str) -> Any:
    if not isinstance(found, dict):
        raise ValueError(f"{where} must be a table")
    return kind(**_checked(kind, found, where))


def _weights(found: Any, where: str) -> dict[str, float]:
    """How often kinds are drawn. Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError(f"{where} must be a table")
    for name, weight in found.items():
        if type(weight) not in (int, float):
            raise ValueError(f"{where}: {name} must be a number, got {weight!r}")
    try:
        Mix(found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return found


def _checked(kind: Any, found: dict[str, Any], where: str) -> dict[str, Any]:
    """`found` with lists as tuples. Raises ValueError."""
    defaults = {each.name: each.default for each in fields(kind)}
    checked = {}
    for name, value in found.items():
        if name not in defaults:
            raise ValueError(f"{where}: {name} is unknown; known are {', '.join(defaults)}")
        value = tuple(value) if isinstance(value, list) else value
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ValueError(f"{where}: {name} must be {wanted.__name__}, got {value!r}")
        checked[name] = value
    return checked
