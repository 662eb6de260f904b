"""Public PyTorch modules of methods that we have too, each with our mixer at the same knobs.

Nothing of them is imported before it is asked for. Who has no argument for a mask is compared
without one, and where one side lacks a part (a gate), it gets the other's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """What both sides are built for: width, heads, length."""

    dim: int
    heads: int
    length: int

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A public module and ours.

    Attributes:
        module, attribute: where it lies.
        install: what to do where it is missing.
        model, knobs: ours.
        make: the module, from its class.
        causal: of both.
        mask: name of its argument for the ``(B, N)`` mask; None: it has none.
    """

    module: str
    attribute: str
    install: str
    model: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Any, Size], nn.Module]
    causal: bool = False
    mask: str | None = None

    def build(self, size: Size) -> nn.Module:
        """The public module.

        Raises:
            ImportError: it is not installed, or another package has its name.
        """
        module = import_module(self.module)
        if not hasattr(module, self.attribute):
            raise ImportError(f"'{self.module}' has no {self.attribute}: it is another package")
        return self.make(getattr(module, self.attribute), size)

    def call(self, module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        y = module(x) if mask is None or self.mask is None else module(x, **{self.mask: mask})
        return y[0] if isinstance(y, tuple) else y


class Gated(nn.Module):
    """A bare state space layer with the gate of S5's layer, g * sigmoid(W g), g = gelu(y), or, with
    two maps, of LRU's: (V g) * sigmoid(W g)."""

    def __init__(self, core: nn.Module, dim: int, maps: int = 1):
        super().__init__()
        self.core, self.gate = core, nn.Linear(dim, maps * dim)

    def forward(self, x: Tensor) -> Tensor:
        g = F.gelu(self.core(x))
        found = self.gate(g)
        return g * found.sigmoid() if found.shape == g.shape else F.glu(found, dim=-1)


def _mambapy(cls: Any, size: Size) -> nn.Module:
    config = import_module("mambapy.mamba").MambaConfig
    return cls(config(d_model=size.dim, n_layers=1, d_state=16, expand_factor=2, d_conv=4))


PEERS: dict[str, Peer] = {
    "x-transformers": Peer(
        module="x_transformers.x_transformers", attribute="Attention",
        install="pip install x-transformers", model="transformer", mask="mask",
        make=lambda cls, size: cls(
            size.dim, heads=size.heads, dim_head=size.head_dim, flash=True
        ),
    ),
    "x-transformers-causal": Peer(
        module="x_transformers.x_transformers", attribute="Attention",
        install="pip install x-transformers", model="transformer", causal=True,
        make=lambda cls, size: cls(
            size.dim, heads=size.heads, dim_head=size.head_dim, flash=True, causal=True
        ),
    ),
    "local-attention": Peer(
        module="local_attention", attribute="LocalMHA", install="pip install local-attention",
        model="sliding_window_attention", knobs={"window": 129}, causal=True, mask="mask",
        make=lambda cls, size: cls(
            dim=size.dim, window_size=128, dim_head=size.head_dim, heads=size.heads, causal=True,
            exact_windowsize=True, use_rotary_pos_emb=False,
        ),
    ),
    "performer-pytorch": Peer(
        module="performer_pytorch", attribute="SelfAttention",
        install="pip install performer-pytorch", model="performer", knobs={"nb_features": 128},
        mask="mask",
        make=lambda cls, size: cls(
            size.dim, heads=size.heads, dim_head=size.head_dim, nb_features=128
        ),
    ),
    "linformer": Peer(
        module="linformer", attribute="LinformerSelfAttention", install="pip install linformer",
        model="linformer", knobs={"k": 128, "share": "headwise"},
        make=lambda cls, size: cls(
            size.dim, size.length, k=128, heads=size.heads, dim_head=size.head_dim
        ),
    ),
    "nystrom-attention": Peer(
        module="nystrom_attention", attribute="NystromAttention",
        install="pip install nystrom-attention", model="nystromformer",
        knobs={"num_landmarks": 64, "pinv_iters": 6, "conv_kernel": 33}, mask="mask",
        make=lambda cls, size: cls(
            size.dim, dim_head=size.head_dim, heads=size.heads, num_landmarks=64,
            pinv_iterations=6, residual=True, residual_conv_kernel=33,
        ),
    ),
    "reformer-pytorch": Peer(
        module="reformer_pytorch", attribute="LSHSelfAttention",
        install="pip install reformer-pytorch 'product-key-memory<0.2'", model="reformer",
        knobs={"n_hashes": 4, "bucket_size": 64}, mask="input_mask",
        # a pair that meets in several rounds counts once, as in the paper
        make=lambda cls, size: cls(
            size.dim, heads=size.heads, bucket_size=64, n_hashes=4, allow_duplicate_attention=False
        ),
    ),
    "sinkhorn-transformer": Peer(
        module="sinkhorn_transformer.sinkhorn_transformer", attribute="SinkhornSelfAttention",
        install="pip install sinkhorn-transformer 'product-key-memory<0.2'",
        model="sinkhorn_transformer",
        knobs={"block_size": 64, "sinkhorn_iters": 5, "temperature": 0.75}, mask="input_mask",
        make=lambda cls, size: cls(
            size.dim, 64, size.length, heads=size.heads, non_permutative=False, sinkhorn_iter=5,
            temperature=0.75, use_simple_sort_net=True,
        ),
    ),
    "mambapy": Peer(
        module="mambapy.mamba", attribute="MambaBlock", install="pip install mambapy",
        model="mamba", knobs={"d_state": 16, "d_conv": 4, "expand": 2}, causal=True, make=_mambapy,
    ),
    "s5-pytorch": Peer(
        module="s5", attribute="S5", install="pip install s5-pytorch", model="s5",
        knobs={"state": 128, "blocks": 4, "activation": "half_glu1"}, causal=True,
        # a state of its is a conjugate pair
        make=lambda cls, size: Gated(cls(size.dim, 64, block_count=4), size.dim),
    ),
    "s4d": Peer(
        module="s4d", attribute="S4D",
        install="put models/s4/s4d.py and src/ of github.com/state-spaces/s4 on PYTHONPATH",
        model="s4d", knobs={"d_state": 64, "init": "lin"}, causal=True,
        make=lambda cls, size: cls(size.dim, d_state=64, transposed=False),
    ),
    "s4": Peer(
        module="s4", attribute="S4Block",
        install="put models/s4/s4.py and src/ of github.com/state-spaces/s4 on PYTHONPATH",
        model="s4", knobs={"d_state": 64}, causal=True,
        make=lambda cls, size: cls(size.dim, d_state=64, l_max=size.length, transposed=False),
    ),
    "lru-pytorch": Peer(
        module="LRU_pytorch", attribute="LRU", install="pip install LRU-pytorch",
        model="lru", knobs={"state": 128}, causal=True,
        # a loop over the positions; its D is a matrix
        make=lambda cls, size: Gated(cls(size.dim, size.dim, 128), size.dim, 2),
    ),
}  # fmt: skip
