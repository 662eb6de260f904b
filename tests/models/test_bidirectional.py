"""The two-direction wrapper."""

import pytest
import torch

from kernels.errors import Unsupported
from models.bidirectional import TwoWay
from models.build import make_mixer
from models.padding import flip_inside
from models.spec import LayerSpec
from tests.conformance.specimens import SoundDecay

X = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
CONFIG = {"_target_": "tests.conformance.specimens.SoundDecay"}


def spec(**changes):
    return LayerSpec(**{"dim": 8, "heads": 2, "max_len": 9, "causal": False, **changes})


def wrapped():
    torch.manual_seed(0)
    return make_mixer(CONFIG, spec(two_way=True)).double().eval()


def test_sum_of_two_directions():
    mixer = wrapped()
    for row, n in enumerate((7, 3, 1)):
        x = X[row : row + 1, :n]
        expected = mixer.left(x) + mixer.right(x.flip(1)).flip(1)
        torch.testing.assert_close(mixer(X, MASK)[row, :n], expected[0])


def test_hole_stays_where_it_is():
    mixer = wrapped()
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 0]]).bool()
    flipped = torch.tensor([[1, 1, 0, 1, 0, 0, 0]]).bool()
    x = X[:1]
    right = mixer.right(flip_inside(x, mask), flipped)
    expected = mixer.left(x, mask) + flip_inside(right, mask)
    torch.testing.assert_close(mixer(x, mask)[mask], expected[mask])


def test_two_sets_of_parameters():
    mixer, one = wrapped(), make_mixer(CONFIG, spec())
    assert sum(p.numel() for p in mixer.parameters()) == 2 * sum(
        p.numel() for p in one.parameters()
    )
    assert not torch.equal(mixer.left.inner.weight, mixer.right.inner.weight)


def test_card_of_the_wrapper_is_its_own():
    mixer = wrapped()
    assert mixer.card.bidirectional and mixer.card.causality == "no" and not mixer.card.recurrent
    assert not SoundDecay.card.bidirectional


def test_wrapper_neither_decodes_nor_takes_a_context():
    mixer = wrapped()
    with pytest.raises(Unsupported):
        mixer.init_state(1)
    with pytest.raises(Unsupported):
        mixer(X, context=X)


def test_causal_only_mixer_runs_causally_without_the_wrapper():
    mixer = make_mixer(CONFIG, spec())
    assert isinstance(mixer, SoundDecay) and mixer.causal


def test_causal_task_needs_no_wrapper():
    assert isinstance(make_mixer(CONFIG, spec(causal=True, two_way=True)), SoundDecay)


def test_bidirectional_mixer_is_not_wrapped():
    config = {"_target_": "tests.conformance.specimens.Sound"}
    assert not isinstance(make_mixer(config, spec(two_way=True)), TwoWay)
