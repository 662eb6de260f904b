"""From configs to models: the three kinds of task, knobs, hybrids, bad input."""

import pytest
import torch

from kernels.errors import Unsupported
from lra.conformance.probe import as_users_run
from models.backbones.encoder import Encoder
from models.build import build_model, knobs_of, locate, make, make_mixer
from models.mixer import Mixer
from models.spec import LayerSpec, ModelSpec
from tests.conformance.specimens import Sound, SoundDecay

SPECIMENS, FAULTY = "tests.conformance.specimens", "tests.conformance.faults"
SOUND = {"_target_": f"{SPECIMENS}.Sound"}
DECAY = {"_target_": f"{SPECIMENS}.SoundDecay"}
BLOCK = {"_target_": "models.blocks.residual.ResidualBlock"}
ENCODER = {"_target_": "models.backbones.encoder.Encoder"}
MASK = torch.arange(7) < torch.tensor([7, 3])[:, None]
IDS = torch.randint(1, 11, (2, 7), generator=torch.Generator().manual_seed(0)) * MASK


@pytest.fixture
def untyped():
    """Annotated shapes are not checked, as users run it."""
    with as_users_run():
        yield


def model(*mixers, layer=None, **changes):
    torch.manual_seed(0)
    spec = LayerSpec(
        **{"dim": 8, "heads": 2, "max_len": 9, "causal": False, "depth": 2, "ffn_dim": 16}
        | (layer or {})
    )
    values = {
        "kind": "classify", "classes": 3, "vocab": 11, "features": None, "positions": "sinusoidal",
        "embedding_std": 1.0, "pooling": "mean", "head": "mlp", "head_dim": 16, **changes,
    }  # fmt: skip
    layers = [(BLOCK, mixer) for mixer in mixers or (SOUND,)]
    return build_model(ModelSpec(layer=spec, **values), backbone=ENCODER, layers=layers).eval()


def test_classify():
    assert model()(IDS, MASK).shape == (2, 3)


def test_match_folds_two_sequences_into_the_batch():
    built = model(kind="match")
    x = torch.randint(1, 11, (2, 2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.stack([MASK, MASK.flip(0)], 1)
    logits = built(x, mask)
    assert logits.shape == (2, 3)
    # each example on its own; the same pair in the other order is another one
    for row in (0, 1):
        torch.testing.assert_close(built(x[row:][:1], mask[row:][:1])[0], logits[row])
    assert not torch.allclose(built(x.flip(1), mask.flip(1)), logits)


def test_token():
    assert model(kind="token", layer={"causal": True})(IDS, MASK).shape == (2, 7, 3)


def test_scalars():
    built = model(vocab=None, features=2)
    assert built(torch.randn(2, 7, 2), MASK).shape == (2, 3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "first"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rope", "none"])
def test_padded_equals_unpadded(pooling, positions):
    built = model(pooling=pooling, positions=positions, layer={"rotary": positions == "rope"})
    alone = built(IDS[1:, :3], MASK[1:, :3])
    torch.testing.assert_close(built(IDS, MASK)[1:], alone)


def test_cls_takes_one_of_max_len():
    built = model(pooling="cls")
    assert built.embedding.max_len == 8
    assert built(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8).bool()).shape == (1, 3)


@pytest.mark.parametrize("pooling", ["cls", "first"])
def test_one_way_model_pools_by_masked_mean(pooling):
    built = model(DECAY, pooling=pooling)
    assert built.embedding.cls is None and built.head.pooling == "mean"
    assert built.embedding.max_len == (8 if pooling == "cls" else 9)
    torch.testing.assert_close(built(IDS, MASK)[1:], built(IDS[1:, :3], MASK[1:, :3]))


def test_two_way_model_may_pool_by_cls():
    built = model(DECAY, pooling="cls", layer={"two_way": True})
    assert built.embedding.cls is not None and built.head.pooling == "cls"


def test_hybrid_gives_each_layer_its_mixer():
    kinds = [type(mixer) for mixer in model(SOUND, DECAY).mixers()]
    assert kinds == [Sound, SoundDecay]


def test_one_mixer_broadcasts():
    assert [type(mixer) for mixer in model(layer={"depth": 3}).mixers()] == [Sound] * 3


def test_wrong_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="2 layers were given for a depth of 3: give 1 or 3"):
        model(SOUND, DECAY, layer={"depth": 3})


def test_exact_model_is_not_degenerate():
    built = model({"_target_": f"{FAULTY}.ClaimsAnEquality"})
    assert all(mixer.dense_at(4) for mixer in built.mixers())
    assert not built.dense_at(4)


def test_rotary_positions_reach_the_mixers():
    rotating, plain = (
        model(positions=positions, layer={"rotary": positions == "rope"})
        for positions in ("rope", "none")
    )
    assert not torch.allclose(rotating(IDS, MASK), plain(IDS, MASK))


def test_disguised_model_is():
    built = model({"_target_": f"{FAULTY}.ClaimsToBeDense"})
    assert built.dense_at(4)
    mixed = model(SOUND, {"_target_": f"{FAULTY}.ClaimsToBeDense"})
    assert not mixed.dense_at(4)


def test_losses_of_the_parts_are_summed():
    built = model()
    assert built.aux_loss() is None
    for mixer in built.mixers():
        mixer.aux_loss = lambda: torch.tensor(2.0)
    assert built.aux_loss() == 4.0


def test_step_hook_reaches_every_part():
    built, seen = model(), []
    for part in built.parts:
        part.on_step = seen.append
    built.on_step(3)
    # a backbone, two blocks, two mixers
    assert seen == [3] * 5


@pytest.mark.parametrize("shape", [(2, 6), (1, 7), (7, 2), (2,), (2, 7, 1)])
def test_wrong_mask_is_refused(shape, untyped):
    with pytest.raises(ValueError, match="does not fit inputs"):
        model()(IDS, torch.ones(shape, dtype=torch.bool))


def test_cls_of_a_token_task_is_refused():
    with pytest.raises(ValueError, match="pooling=cls has no meaning"):
        model(kind="token", pooling="cls")


def test_knobs_are_the_classes_own():
    assert knobs_of(Sound) == []
    assert knobs_of(SoundDecay) == ["order"]
    assert knobs_of(Encoder) == []


def test_catch_all_arguments_are_no_knobs():
    class Loose(Sound):
        def __init__(self, dim, *rest, window=3, **kwargs):
            super().__init__(dim, *rest, **kwargs)

    assert knobs_of(Loose) == ["window"]


def test_unknown_knob_names_the_known_ones():
    with pytest.raises(ValueError, match="SoundDecay has no knob 'oder': its knobs are order"):
        make_mixer({**DECAY, "oder": 3}, LayerSpec(dim=8, heads=2, max_len=9, causal=True))


def test_missing_knob_is_named():
    with pytest.raises(ValueError, match="NeedsAWindow needs the knob 'window'"):
        make({"_target_": f"{SPECIMENS}.NeedsAWindow"}, Mixer, 8, heads=2, max_len=9, causal=False)


def test_mixer_without_a_card_is_refused():
    with pytest.raises(ValueError, match="HasNoCard has no card"):
        model({"_target_": f"{SPECIMENS}.HasNoCard"})


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("Sound", "must be 'module.Class'"),
        ("no_such_module.Sound", "cannot import 'no_such_module'"),
        (f"{SPECIMENS}.Sund", "no class 'Sund': did you mean 'Sound'?"),
        ("models.backbones.encoder.Encoder", "is not a Mixer"),
        (f"{SPECIMENS}.CARD", "is not a Mixer"),
    ],
)
def test_bad_target_is_refused(target, words):
    with pytest.raises(ValueError) as error:
        locate(target, Mixer)
    assert words in str(error.value)


def test_backbone_that_needs_a_context_refuses_a_mixer_without():
    cross = {"_target_": f"{SPECIMENS}.CrossBackbone"}
    spec = LayerSpec(dim=8, heads=2, max_len=9, causal=False)
    whole = ModelSpec(
        layer=spec, kind="classify", classes=2, vocab=5, features=None, positions="none",
        embedding_std=1.0, pooling="mean", head="linear", head_dim=1,
    )  # fmt: skip
    build_model(whole, backbone=cross, layers=[(BLOCK, SOUND)])
    with pytest.raises(Unsupported, match="SoundDecay cannot: choose a mixer whose card says"):
        build_model(whole, backbone=cross, layers=[(BLOCK, DECAY)])
