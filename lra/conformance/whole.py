"""Checks of the whole model that a preset makes: embedding, blocks, backbone, head."""

import torch
from torch import Tensor

from lra.conformance.probe import ROUNDING, assert_finite, assert_same, prefix_mask
from lra.conformance.subject import DIM, HEADS, MAX_LEN, Subject, to_dtype
from models.backbone import Backbone
from models.build import build_model, locate
from models.model import Model
from models.spec import LayerSpec, ModelSpec
from models.wake import wake

VOCAB, CLASSES, DEPTH = 11, 3, 2
LENGTHS = (1, 2, 17, MAX_LEN)


def _model(subject: Subject, *, two_way: bool = False, scalars: bool = False) -> Model:
    layer = LayerSpec(
        dim=DIM, heads=HEADS, max_len=MAX_LEN, causal=False, depth=DEPTH, ffn_dim=2 * DIM,
        two_way=two_way, grid=subject.grid(MAX_LEN),
    )  # fmt: skip
    spec = ModelSpec(
        layer=layer, kind="classify", classes=CLASSES, vocab=None if scalars else VOCAB,
        features=2 if scalars else None, positions="sinusoidal", embedding_std=1.0, pooling="mean",
        head="mlp", head_dim=DIM,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_model(
            spec, backbone=subject.backbone, layers=[(subject.block, subject.mixer)]
        )
        wake(built)
    return to_dtype(built, torch.float64).eval()  # type: ignore[return-value]


def model(subject: Subject) -> None:
    """Logits of padded examples equal those of unpadded ones, two-way or not; every parameter
    learns; NaN in padded scalars stays out."""
    mask = prefix_mask(LENGTHS, MAX_LEN)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, mask.shape, generator=generator) * mask
    host = locate(subject.backbone["_target_"], Backbone).card
    # a backbone that reads from left to right by itself refuses the other way
    ways = (False, True) if host is None or host.bidirectional else (False,)
    for two_way in ways:
        built = _model(subject, two_way=two_way)
        logits = _run(built, ids, mask)
        assert logits.shape == (len(LENGTHS), CLASSES), f"logits {tuple(logits.shape)}"
        assert_finite("logits", logits)
        if subject.card.padding == "invariant":
            for row, n in enumerate(LENGTHS):
                alone = _run(built, ids[row : row + 1, :n], mask[row : row + 1, :n])
                assert_same(f"logits of true length {n}", logits[row], alone[0], 10 * ROUNDING)
        built.train()
        _run(built, ids, mask).square().sum().backward()
        for name, parameter in built.named_parameters():
            assert parameter.grad is not None, f"{name} receives no gradient"
            assert_finite(f"gradient of {name}", parameter.grad)
    _scalars(subject, mask)


def _scalars(subject: Subject, mask: Tensor) -> None:
    built = _model(subject, scalars=True)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(*mask.shape, 2, generator=generator, dtype=torch.float64)
    clean = _run(built, x, mask)
    dirty = _run(built, x.masked_fill(~mask[..., None], float("nan")), mask)
    assert_finite("logits with NaN in padded scalars", dirty)
    assert_same("logits with NaN in padded scalars", dirty, clean)


def _run(built: Model, x: Tensor, mask: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return built(x, mask)
