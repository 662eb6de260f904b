"""Masks: true lengths, zeroed padding, sequences flipped inside their true length."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.padding import flip_inside, true_lengths, zero_padding

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()


def test_true_length_ends_at_the_last_real_token():
    assert true_lengths(MASK).tolist() == [3, 3, 0, 4]


def test_zero_padding_removes_what_is_not_finite():
    x = torch.full((4, 4, 2), float("nan"))
    x[0, :2] = 1.0
    zeroed = zero_padding(x, MASK)
    assert (zeroed[~MASK] == 0).all()
    assert torch.equal(zeroed[0, :2], torch.ones(2, 2))
    assert zero_padding(x, None) is x


def test_zero_padding_of_ids():
    ids = torch.arange(1, 17).view(4, 4)
    assert zero_padding(ids, MASK)[1].tolist() == [5, 0, 7, 0]


def test_no_gradient_flows_to_padding():
    x = torch.randn(4, 4, 2).fill_(float("inf")).requires_grad_()
    zero_padding(x, MASK)[~MASK].sum().backward()
    assert x.grad is not None and (x.grad == 0).all()


def test_flip_keeps_padding_at_the_end():
    x = torch.tensor([[1, 2, 3, 9], [4, 5, 6, 9], [7, 8, 9, 9], [1, 2, 3, 4]])
    assert flip_inside(x, MASK).tolist() == [
        [3, 2, 1, 9], [6, 5, 4, 9], [7, 8, 9, 9], [4, 3, 2, 1],
    ]  # fmt: skip


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.booleans())
def test_flip_is_an_involution(lengths, vectors):
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    x = torch.randn(len(lengths), 6, *([3] if vectors else []))
    assert torch.equal(flip_inside(flip_inside(x, mask), mask), x)
    full = torch.ones_like(mask)
    assert torch.equal(flip_inside(x, full), flip_inside(x, None))
