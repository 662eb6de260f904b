"""Whole-model systems that host any mixer: what each is in its limits."""

from functools import partial

import pytest
import torch

from kernels.errors import Unsupported
from models.backbones.encoder import Encoder
from models.backbones.funnel_transformer import FunnelTransformer, even_parts, halved
from models.backbones.perceiver import Perceiver
from models.backbones.universal_transformer import UniversalTransformer
from models.blocks.residual import ResidualBlock
from models.build import build_model, make_mixer
from models.embedding import sinusoids
from models.spec import LayerSpec, ModelSpec

DIM = 8
DENSE = {"_target_": "models.mixers.exact.transformer.Transformer"}
PERFORMER = {"_target_": "models.mixers.linear.performer.Performer", "nb_features": 16}
WINDOW = {"_target_": "models.mixers.sparse.sliding_window_attention.SlidingWindowAttention"}
BLOCK = {"_target_": "models.blocks.residual.ResidualBlock"}


def made(kind, spec=None, **knobs):
    torch.manual_seed(0)
    values = {"dim": DIM, "heads": 2, "max_len": 32, "causal": False, "depth": 2, "ffn_dim": 16}
    layer = LayerSpec(**values | (spec or {}))
    block = lambda s: ResidualBlock(s, partial(make_mixer, DENSE))  # noqa: E731
    return kind(layer, block, **knobs).double().eval()


def inputs(n, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, n, DIM, generator=generator, dtype=torch.float64)


def real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


# -- universal transformer -----------------------------------------------------------------------


def test_one_step_is_one_layer_on_positions_and_step():
    model, x = made(UniversalTransformer, steps=1), inputs(7)
    table = sinusoids(8, DIM).double()
    y, _ = model.block(x + table[:7] + table[1], real(x))
    torch.testing.assert_close(model(x, real(x))[0], model.norm(y))


def test_parameters_do_not_depend_on_the_steps():
    count = [
        sum(p.numel() for p in made(UniversalTransformer, steps=t).parameters()) for t in (1, 9)
    ]
    assert count[0] == count[1]
    x = inputs(7)
    few, many = made(UniversalTransformer, steps=2), made(UniversalTransformer, steps=3)
    assert not torch.allclose(few(x, real(x))[0], many(x, real(x))[0])


def test_halting_at_once_is_one_step():
    model, x = made(UniversalTransformer, steps=4, act=True, act_threshold=0.01), inputs(7)
    plain = made(UniversalTransformer, steps=1)
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(x, real(x))[0], plain(x, real(x))[0])
    # one step each, and a remainder of one
    torch.testing.assert_close(model.aux_loss(), torch.tensor(0.02).double())


def test_never_halting_gives_the_last_step_what_remains():
    model, x = made(UniversalTransformer, steps=3, act=True), inputs(7)
    with torch.no_grad():
        model.halt.weight.zero_(), model.halt.bias.fill_(-50.0)
    table = sinusoids(8, DIM).double()
    # two steps of no weight, then all of the third, from the first state
    y, _ = model.block(x + table[:7] + table[3], real(x))
    torch.testing.assert_close(model(x, real(x))[0], model.norm(y))
    torch.testing.assert_close(model.aux_loss(), torch.tensor(0.01 * 4).double())


def test_act_by_hand():
    """Position by position, as the roster of a small batch would be done with a pencil."""
    model, x = made(UniversalTransformer, steps=5, act=True, act_threshold=0.9), inputs(6)
    with torch.no_grad():
        model.halt.weight.mul_(3), model.halt.bias.fill_(-0.5)
    table, state = sinusoids(8, DIM).double(), x.clone()
    total = torch.zeros(2, 6).double()
    halted = torch.zeros(2, 6, dtype=torch.bool)
    for t in range(5):
        inner = state + table[:6] + table[t + 1]
        p = model.halt(inner)[..., 0].sigmoid()
        hidden, _ = model.block(inner, real(x))
        for b in range(2):
            for i in range(6):
                if halted[b, i]:
                    continue
                weight = p[b, i]
                if total[b, i] + weight > 0.9 or t == 4:
                    weight, halted[b, i] = 1 - total[b, i], True
                total[b, i] += weight
                state[b, i] = weight * hidden[b, i] + (1 - weight) * state[b, i]
    torch.testing.assert_close(model(x, real(x))[0], model.norm(state))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1])
def test_thresholds_that_end_before_a_step_or_never_are_refused(threshold):
    """A threshold of 0 would run no step and give zeros."""
    with pytest.raises(ValueError, match=r"act_threshold must be in \(0, 1\)"):
        made(UniversalTransformer, act=True, act_threshold=threshold)


# -- funnel --------------------------------------------------------------------------------------


def test_one_block_is_the_encoder():
    funnel, x = made(FunnelTransformer, blocks=[2]), inputs(9)
    encoder = made(Encoder)
    names = {k.replace("layers.", "blocks."): v for k, v in funnel.state_dict().items()}
    encoder.load_state_dict(names)
    torch.testing.assert_close(funnel(x, real(x))[0], encoder(x, real(x))[0])


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_pooled_queries_read_what_is_not_pooled(n):
    funnel, x = made(FunnelTransformer), inputs(n)
    y, mask = funnel(x, real(x))
    assert y.shape[1] == mask.shape[1] == -(-n // 2)
    first, second = funnel.layers
    hidden, _ = first(x, real(x))
    pooled, _ = halved(hidden, real(x), 0)
    mixer = second.mixer
    q = mixer.heads_of(mixer.query(second.mixer_norm(pooled)))
    k, v = (mixer.heads_of(f(second.mixer_norm(hidden))) for f in (mixer.key, mixer.value))
    read = (q @ k.mT / 2).softmax(-1) @ v
    z = pooled + mixer.output(read.transpose(1, 2).flatten(2))
    z = z + second.ffn(second.ffn_norm(z))
    torch.testing.assert_close(y, funnel.norm(z))


def test_pooling_means_real_neighbours_and_leaves_cls_alone():
    x = torch.arange(1.0, 8.0).reshape(1, 7, 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 1, 0]]).bool()
    y, real_ones = halved(x.masked_fill(~mask[..., None], torch.nan), mask, 1)
    assert y.flatten().tolist() == [1.0, 2.5, 4.0, 6.0] and real_ones.all()
    y, real_ones = halved(x, mask.logical_and(torch.arange(7) < 3), 0)
    assert y.flatten().tolist() == [1.5, 3.0, 0.0, 0.0]
    assert real_ones.tolist() == [[True, True, False, False]]


def test_layers_are_shared_out_evenly():
    assert [even_parts(n, 3) for n in (1, 2, 4, 6, 12)] == [
        [1],
        [1, 1],
        [2, 1, 1],
        [2] * 3,
        [4] * 3,
    ]
    with pytest.raises(ValueError, match="sum to the depth 2"):
        made(FunnelTransformer, blocks=[2, 2])


# -- perceiver -----------------------------------------------------------------------------------


def test_one_reading_is_one_cross_attention():
    model = made(Perceiver, num_latents=3, self_per_cross=0, fourier_bands=0)
    x = inputs(9)
    ((block,),) = model.turns
    z = model.latents.expand(2, -1, -1)
    y, _ = block(z, None, context=x)
    torch.testing.assert_close(model(x, real(x))[0], model.norm(y))
    shuffled = x[:, torch.randperm(9)]
    torch.testing.assert_close(model(shuffled, real(x))[0], model(x, real(x))[0])


def test_order_of_inputs_with_their_positions_does_not_matter():
    model, x, order = made(Perceiver, num_latents=3, fourier_bands=4), inputs(9), torch.randperm(9)
    y, _ = model(x, real(x))
    features = model.position_features(9)[order]
    model.position_features = lambda n: features
    torch.testing.assert_close(model(x[:, order], real(x))[0], y)
    assert not torch.allclose(model(x, real(x))[0], y)


def test_repeats_share_their_parameters():
    shared = made(Perceiver, num_latents=3, cross_repeats=3)
    apart = made(Perceiver, num_latents=3, cross_repeats=3, weight_share=False)
    assert (len(shared.turns), len(apart.turns)) == (1, 3)
    assert [len(turn) for turn in shared.turns] == [3]
    x = inputs(9)
    assert shared(x, real(x))[0].shape == (2, 3, DIM)


def test_positions_reach_the_latents():
    model, x = made(Perceiver, num_latents=3, fourier_bands=4), inputs(9)
    features = model.position_features(32)
    assert features.shape == (32, 9)
    assert features[0, 0] == -1 and features[-1, 0] == 1
    assert not torch.allclose(model(x.flip(1), real(x))[0], model(x, real(x))[0])


# -- hosting -------------------------------------------------------------------------------------


def model_spec():
    return ModelSpec(
        layer=LayerSpec(dim=DIM, heads=2, max_len=16, causal=False, depth=2, ffn_dim=16),
        kind="classify", classes=3, vocab=11, features=None, positions="sinusoidal",
        embedding_std=1.0, pooling="mean", head="mlp", head_dim=16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("funnel_transformer", "FunnelTransformer"),
        ("perceiver", "Perceiver"),
        ("transformer_xl", "TransformerXL"),
    ],
)
def test_hosts_a_performer_and_refuses_a_mixer_without_cross(module, name):
    backbone, spec = {"_target_": f"models.backbones.{module}.{name}"}, model_spec()
    model = build_model(spec, backbone=backbone, layers=[(BLOCK, PERFORMER)])
    x = torch.randint(1, 11, (2, 16))
    assert model(x, torch.ones_like(x, dtype=torch.bool)).shape == (2, 3)
    assert {type(mixer).__name__ for mixer in model.mixers()} == {"Performer"}
    needs = f"{name} takes keys and values from another sequence, "
    wanted = f"{needs}SlidingWindowAttention cannot: choose a mixer whose card says cross"
    with pytest.raises(Unsupported, match=wanted):
        build_model(spec, backbone=backbone, layers=[(BLOCK, WINDOW)])
    mega = {"_target_": "models.blocks.mega.Mega"}
    with pytest.raises(Unsupported, match=f"{needs}Mega hands none to a mixer: choose block="):
        build_model(spec, backbone=backbone, layers=[(mega, DENSE)])


def test_a_funnel_that_pools_keys_too_hosts_any_mixer():
    sort = "models.mixers.sparse.sinkhorn_transformer.SinkhornTransformer"
    layers = [(BLOCK, {"_target_": sort, "block_size": 4})]
    funnel = {"_target_": "models.backbones.funnel_transformer.FunnelTransformer"}
    with pytest.raises(Unsupported, match="SinkhornTransformer cannot: choose a mixer whose card"):
        build_model(model_spec(), backbone=funnel, layers=layers)
    pooled = {**funnel, "pool_q_only": False}
    model = build_model(model_spec(), backbone=pooled, layers=layers).eval()
    # a layer is made for the positions that it sees
    assert [mixer.max_len for mixer in model.mixers()] == [16, 8]
    x = torch.randint(1, 11, (2, 13))
    real = torch.ones_like(x, dtype=torch.bool)
    logits = model(x, real)
    assert logits.shape == (2, 3)
    cut = real & (torch.arange(13) < 6)
    torch.testing.assert_close(model(x, cut), model(x[:, :6], cut[:, :6]))
    mega = build_model(
        model_spec(), backbone=pooled, layers=[({"_target_": "models.blocks.mega.Mega"}, DENSE)]
    )
    assert mega(x, real).isfinite().all()


@pytest.mark.parametrize("kind", [FunnelTransformer, Perceiver])
def test_what_cannot_be_causal_says_so(kind):
    with pytest.raises(Unsupported, match="cannot be causal"):
        made(kind, spec={"causal": True})
    with pytest.raises(Unsupported, match="positions"):
        made(kind, spec={"rotary": True})
