"""ALiBi in every mixer that takes it, and the refusal of the others."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from models.alibi import alibi_slopes
from models.bidirectional import TwoWay
from models.build import build_model, locate
from models.mixer import Mixer
from models.spec import LayerSpec, ModelSpec

MIXERS = {
    "exact.transformer.Transformer": {},
    "sparse.sliding_window_attention.SlidingWindowAttention": {"window": 5},
    "sparse.local_attention.LocalAttention": {"block_size": 5},
    "sparse.sparse_transformer.SparseTransformer": {"stride": 4},
    "sparse.longformer.Longformer": {"window": 4, "separate_global_proj": False},
    "low_rank.synthesizer.Synthesizer": {"dot_product": True},
}
BIGBIRD = "sparse.bigbird.BigBird"
MIXERS[BIGBIRD] = {"block_size": 2, "num_rand_blocks": 1}
# BigBird cannot be causal
WAYS = [(target, causal) for target in MIXERS for causal in (False, True)]
WAYS.remove((BIGBIRD, True))
OTHERS = {
    "exact.relative_attention.RelativeAttention": "sinusoidal, learned or none",
    "linear.performer.Performer": "rope, sinusoidal, learned or none",
    "low_rank.linformer.Linformer": "rope, sinusoidal, learned or none",
    "ssm.s4d.S4D": "sinusoidal, learned or none",
}
BLOCK = {"_target_": "models.blocks.residual.ResidualBlock"}
ENCODER = {"_target_": "models.backbones.encoder.Encoder"}


def build(target, causal=False, heads=3, **knobs):
    torch.manual_seed(0)
    cls = locate(f"models.mixers.{target}", Mixer)
    mixer = cls(12, heads=heads, max_len=64, causal=causal, **knobs)
    return mixer.double().eval()


def with_alibi(target, *args, **knobs):
    mixer = build(target, *args, **knobs)
    mixer.use_alibi()
    return mixer


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, [h / 2 for h in range(1, 17)]),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        # the authors' code for 12 heads
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_slopes_of_the_paper(heads, exponents):
    wanted = torch.tensor([2.0**-e for e in exponents])
    torch.testing.assert_close(alibi_slopes(heads), wanted)


def by_pairs(weights, slopes, causal):
    """Weights without ALiBi times exp(-m |i - j|), made to sum to 1 again: the softmax itself."""
    weighed = torch.zeros_like(weights)
    n = weights.shape[-1]
    for h, slope in enumerate(slopes.tolist()):
        for i in range(n):
            for j in range(n):
                weighed[:, h, i, j] = weights[:, h, i, j] * math.exp(-slope * abs(i - j))
    return weighed / weighed.sum(-1, keepdim=True)


@pytest.mark.parametrize("n", [1, 2, 9, 17])
@pytest.mark.parametrize(("target", "causal"), WAYS)
def test_equals_the_biased_softmax(target, causal, n):
    mixer, x = build(target, causal, **MIXERS[target]), torch.randn(2, n, 12, dtype=torch.float64)
    mask = torch.rand(2, n) > 0.3
    mask[:, 0] = True
    for m in (None, mask):
        mixer.alibi = None
        plain, real = mixer.reference_matrix(x, m), torch.ones(2, n).bool() if m is None else m
        mixer.use_alibi()
        rows = real & (plain[:, 0].sum(-1) > 0)
        wanted = by_pairs(plain, mixer.alibi, causal)
        torch.testing.assert_close(
            mixer.reference_matrix(x, m).transpose(1, 2)[rows], wanted.transpose(1, 2)[rows]
        )
        v = mixer.value(x.masked_fill(~real[..., None], 0)).unflatten(-1, (3, 4)).transpose(1, 2)
        y = mixer.output((wanted @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixer(x, m)[rows], y[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", list(MIXERS)[:3])
def test_decoding_equals_the_parallel_form(target):
    mixer, x = with_alibi(target, True, **MIXERS[target]), torch.randn(2, 13, 12).double()
    state, outputs = mixer.init_state(2), []
    for t in range(13):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=1e-12, atol=1e-12)


def test_a_memory_lies_before_the_queries():
    mixer = with_alibi("exact.transformer.Transformer", True)
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x[:, -4:], context=x), mixer(x)[:, -4:])


def test_slopes_are_not_trained_and_not_saved():
    mixer, plain = (make("exact.transformer.Transformer") for make in (with_alibi, build))
    assert mixer.state_dict().keys() == plain.state_dict().keys()
    assert mixer.alibi.dtype == torch.float32 and not mixer.alibi.requires_grad


def test_both_directions_are_biased():
    made = TwoWay(lambda: build("exact.transformer.Transformer", True)).double()
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    before = made(x)
    made.use_alibi()
    assert made.left.alibi is not None and made.right.alibi is not None
    assert not torch.allclose(made(x), before)


@pytest.mark.parametrize("target", OTHERS)
def test_who_does_not_take_it_refuses_and_names_what_it_takes(target):
    with pytest.raises(
        Unsupported, match=f"takes no ALiBi: its recipe.positions are {OTHERS[target]}"
    ):
        with_alibi(target)


def whole(block, mixer, **layer):
    torch.manual_seed(0)
    spec = LayerSpec(dim=12, heads=3, max_len=9, causal=False, depth=2, ffn_dim=16, **layer)
    model = ModelSpec(
        layer=spec, kind="classify", classes=3, vocab=11, features=None,
        positions="alibi" if spec.alibi else "none", embedding_std=1.0, pooling="mean",
        head="linear", head_dim=1,
    )  # fmt: skip
    return build_model(model, backbone=ENCODER, layers=[(block, mixer)]).eval()


def test_every_layer_of_a_model_is_biased():
    dense = {"_target_": "models.mixers.exact.transformer.Transformer"}
    ids, mask = torch.randint(1, 11, (2, 7)), torch.arange(7) < torch.tensor([7, 3])[:, None]
    biased, plain = whole(BLOCK, dense, alibi=True), whole(BLOCK, dense)
    assert all(mixer.alibi is not None for mixer in biased.mixers())
    assert not torch.allclose(biased(ids, mask), plain(ids, mask))
    # no table: any length, and padding does not matter
    torch.testing.assert_close(biased(ids, mask)[1:], biased(ids[1:, :3], mask[1:, :3]))
    assert biased(ids.repeat(1, 3), mask.repeat(1, 3)).shape == (2, 3)


@pytest.mark.parametrize("positions", ["alibi", "rotary"])
def test_a_model_without_mixers_refuses(positions):
    dense = {"_target_": "models.mixers.exact.transformer.Transformer"}
    with pytest.raises(Unsupported, match="no mixer in Encoder, Luna could take"):
        whole({"_target_": "models.blocks.luna.Luna"}, dense, **{positions: True})
