"""Inputs of attention whose state has a fixed size."""

from typing import Any

from torch.nn.functional import normalize

from kernels.linear_attention.feature_map import EluPlusOne
from lra.errors import nearest
from lra.kernel_bench.draw import Draw, Inputs

DECAYS = ("head", "channel")


def linear_attention(draw: Draw, *, causal: bool = False, decay: str | None = None) -> Inputs:
    """With a decay no feature map and no normaliser, as in RetNet (head) and GLA (channel)."""
    q, k, v = (draw.normal(*draw.heads_first) for _ in range(3))
    if decay is None:
        options: dict[str, Any] = {"causal": causal, "feature_map": EluPlusOne()}
        return Inputs(tensors={"q": q, "k": k, "v": v}, options=options, causal=causal)
    if decay not in DECAYS:
        raise nearest(str(decay), DECAYS, kind="decay in op.variants")
    shape = draw.heads_first if decay == "channel" else draw.heads_first[:3]
    return Inputs(
        tensors={
            "q": q * draw.case.head_dim**-0.5, "k": k, "v": v,
            "log_decay": draw.uniform(-0.1, -0.001, *shape),
        },
        options={"causal": causal, "normalise": False}, causal=causal,
    )  # fmt: skip


def delta_rule(draw: Draw, *, decay: bool = False) -> Inputs:
    """Keys of norm 1, as in DeltaNet; with a decay of each head, as in Gated DeltaNet."""
    shape = draw.heads_first
    tensors = {
        "q": draw.normal(*shape, scale=draw.case.head_dim**-0.5),
        "k": draw.put(normalize(draw.normal(*shape, wide=True), dim=-1)),
        "v": draw.normal(*shape),
        "beta": draw.uniform(0.0, 1.0, *shape[:3]),
    }
    if decay:
        tensors["log_decay"] = draw.uniform(-0.1, -0.001, *shape[:3])
    return Inputs(tensors=tensors, causal=True)
