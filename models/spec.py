"""The sizes and switches that every model shares: what a recipe and a task say."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """What one layer is told.

    ``dropout`` acts on residual branches, ``mixer_dropout`` inside the mixer (attention weights).
    ``cls``: position 0 is a CLS vector.
    ``rotary``, ``alibi``: positions that act inside the mixer.
    ``two_way``: a causal-only mixer gets a second set of parameters for the reversed sequence.
    """

    dim: int
    heads: int
    max_len: int
    causal: bool
    layer: int = 0
    depth: int = 1
    qkv_dim: int | None = None
    ffn_dim: int = 0
    dropout: float = 0.0
    mixer_dropout: float = 0.0
    norm: str = "layer"
    norm_position: str = "pre"
    activation: str = "gelu"
    grid: tuple[int, int] | None = None
    rotary: bool = False
    alibi: bool = False
    cls: bool = False
    two_way: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a whole model is told: the layer of ``layer`` (its index and depth are filled in), the
    input and the head. ``max_len`` in ``layer`` counts a CLS vector."""

    layer: LayerSpec
    kind: str
    classes: int
    vocab: int | None
    features: int | None
    positions: str
    embedding_std: float
    pooling: str
    head: str
    head_dim: int
    pairing: str = "nli"
    position_std: float | None = None
