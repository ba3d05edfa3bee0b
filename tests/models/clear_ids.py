"""Random prompts for a comparison with transformers' gpt-oss."""

from __future__ import annotations

import torch
from transformers import GptOssForCausalLM


def clear_ids(oracle: GptOssForCausalLM, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids of a shape (batch, tokens), and the oracle's logits.

    Drawn again where two experts are as good as equal for some token: there the last bits of the arithmetic choose, and
    either choice is right. In bfloat16 there is always one such.
    """
    margins: list[float] = []

    def measure(router, args, output):  # type: ignore[no-untyped-def]
        best = torch.nn.functional.linear(args[0].flatten(0, -2), router.weight, router.bias).sort(-1).values
        k = router.top_k
        margins.append((best[:, -k] - best[:, -k - 1]).min().item() if k < best.shape[1] else 1.0)

    routers = [layer.mlp.router for layer in oracle.model.layers if hasattr(layer.mlp, "router")]
    hooks = [router.register_forward_hook(measure) for router in routers]
    try:
        for _ in range(100):
            margins.clear()
            ids = torch.randint(0, oracle.config.vocab_size, shape, device=oracle.device)
            with torch.no_grad():
                logits = oracle(ids).logits
            assert len(margins) == len(routers)
            if min(margins) > 1e-5 or oracle.dtype == torch.bfloat16:
                return ids, logits
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("every draw has a token with two equal experts")
