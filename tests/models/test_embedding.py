"""Embeddings: tokens and scalars, five kinds of positions, CLS."""

import math

import pytest
import torch

from models.embedding import Embedding, sinusoids

MASK = torch.arange(5) < torch.tensor([5, 2])[:, None]
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]])


def embedding(**changes):
    torch.manual_seed(0)
    arguments = {
        "vocab": 10, "features": None, "max_len": 5, "positions": "none", "cls": False, "std": 0.5,
        "dropout": 0.0, **changes,
    }  # fmt: skip
    return Embedding(8, **arguments)


def test_sinusoids_equation():
    table = sinusoids(50, 8)
    for position, channel in ((0, 0), (7, 0), (7, 1), (49, 4), (49, 7)):
        angle = position / 10000 ** (2 * (channel // 2) / 8)
        expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
        assert table[position, channel].item() == pytest.approx(expected, abs=1e-6)


def test_sinusoids_of_odd_width():
    table = sinusoids(4, 7)
    assert table.shape == (4, 7)
    torch.testing.assert_close(table[:, :6:2], sinusoids(4, 7)[:, :6:2])
    assert torch.isfinite(table).all()


def test_tokens_are_looked_up():
    layer = embedding()
    y, mask = layer(IDS, MASK)
    torch.testing.assert_close(y, layer.content.weight[IDS])
    assert torch.equal(mask, MASK)


def test_std_of_tokens_and_learned_positions():
    layer = embedding(vocab=2000, positions="learned", max_len=2000, std=0.5)
    assert layer.content.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert layer.learned.std().item() == pytest.approx(0.5, rel=0.05)


def test_std_of_learned_positions_alone():
    """The draws are the same, so that a recipe without it is what it was."""
    sizes = {"vocab": 2000, "positions": "learned", "max_len": 2000, "std": 1.0}
    layer, same = embedding(**sizes, position_std=0.02), embedding(**sizes)
    assert torch.equal(layer.content.weight, same.content.weight)
    torch.testing.assert_close(layer.learned, 0.02 * same.learned)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_are_added(positions):
    layer = embedding(positions=positions)
    y, _ = layer(IDS[:, :3], MASK[:, :3])
    table = layer.learned if positions == "learned" else sinusoids(5, 8)
    torch.testing.assert_close(y, layer.content.weight[IDS[:, :3]] + table[:3])


@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_what_acts_in_the_mixers_adds_nothing_here(positions):
    torch.testing.assert_close(embedding(positions=positions)(IDS, MASK), embedding()(IDS, MASK))


def test_cls_comes_first_and_is_real():
    layer = embedding(positions="learned", cls=True)
    y, mask = layer(IDS, MASK)
    assert y.shape == (2, 6, 8) and mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    torch.testing.assert_close(y[:, 0], layer.learned[:1].expand(2, -1))
    torch.testing.assert_close(y[:, 1:], layer.content.weight[IDS] + layer.learned[1:])
    y.sum().backward()
    assert layer.cls.grad is not None and (layer.cls.grad == 2).all()


def test_scalars_are_mapped_and_their_padding_is_not_seen():
    layer = embedding(vocab=None, features=3)
    x = torch.randn(2, 5, 3)
    y, _ = layer(x.masked_fill(~MASK[..., None], float("nan")), MASK)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y[MASK], layer.content(x)[MASK])


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_longer_input_than_positions_is_refused(positions):
    layer = embedding(positions=positions, max_len=4, cls=True)
    with pytest.raises(ValueError, match="positions for 4 tokens, got 5"):
        layer(IDS, MASK)


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
def test_longer_input_without_positions_works(positions):
    assert embedding(positions=positions, max_len=4)(IDS, MASK)[0].shape == (2, 5, 8)


def test_unknown_positions_lists_the_known_ones():
    with pytest.raises(ValueError, match="sinusoidal, learned, rope, alibi, none, got 'alib'"):
        embedding(positions="alib")


def test_table_of_sinusoids_is_not_saved():
    assert set(embedding(positions="sinusoidal").state_dict()) == {"content.weight"}


def test_dropout_acts_in_training_only():
    layer = embedding(dropout=0.5)
    assert (layer.train()(IDS, MASK)[0] == 0).any()
    assert not (layer.eval()(IDS, MASK)[0] == 0).any()
