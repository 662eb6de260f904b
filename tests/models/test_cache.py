"""The cache of keys and values: what it holds, where, and what a token costs."""

import pytest
import torch

from models.cache import FIRST, KeyValueCache
from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.local_attention import LocalAttention
from models.mixers.sparse.sliding_window_attention import SlidingWindowAttention

TOKENS = torch.randn(40, 2, 2, 3, 1, 4, generator=torch.Generator().manual_seed(0))


def empty(limit=None):
    return KeyValueCache(torch.empty(2, 3, 0, 4), torch.empty(2, 3, 0, 4), limit)


def test_it_holds_every_token_in_order_and_copies_a_few_times():
    state, homes = empty(), set()
    for t, (k, v) in enumerate(TOKENS):
        state = state.append(k, v)
        homes.add(state.keys.untyped_storage().data_ptr())
        assert torch.equal(state.keys, torch.cat(list(TOKENS[: t + 1, 0]), dim=2))
        assert torch.equal(state.values, torch.cat(list(TOKENS[: t + 1, 1]), dim=2))
        assert state.ages().tolist() == list(range(t, -1, -1))
    # 16, 32 and 64 slots
    assert len(homes) == 3 and FIRST == 16


@pytest.mark.parametrize("limit", [1, 3, 16, 25])
def test_a_ring_holds_the_last_tokens_each_in_its_slot(limit):
    state = empty(limit)
    for t, (k, v) in enumerate(TOKENS):
        state = state.append(k, v)
        for slot, age in enumerate(state.ages().tolist()):
            at = t - age
            assert at % limit == slot and 0 <= age < limit
            assert torch.equal(state.keys[:, :, slot], TOKENS[at, 0, :, :, 0])
            assert torch.equal(state.values[:, :, slot], TOKENS[at, 1, :, :, 0])
        assert state.keys.shape[2] == min(t + 1, limit)
    assert state.slots.keys.shape[2] == limit


def test_the_same_state_can_be_appended_to_again():
    state = empty()
    for k, v in TOKENS[:FIRST]:
        state = state.append(k, v)
    once, home = state.append(*TOKENS[20]), state.slots.keys.data_ptr()
    again = state.append(*TOKENS[20])
    assert torch.equal(once.keys, again.keys) and state.keys.shape[2] == FIRST
    # nothing was copied the second time
    assert state.slots.keys.data_ptr() == home


def test_what_was_written_has_no_gradient_and_is_not_the_tokens_own():
    k = TOKENS[0, 0].clone().requires_grad_()
    state = empty().append(k, k)
    assert not state.keys.requires_grad
    k.data.zero_()
    assert torch.equal(state.keys, TOKENS[0, 0])


@pytest.mark.parametrize("positions", [None, "use_rotary", "use_alibi"])
@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (Transformer, {}), (SlidingWindowAttention, {"window": 1}),
        (SlidingWindowAttention, {"window": 5}), (SlidingWindowAttention, {"window": 20}),
        (LocalAttention, {"block_size": 18}),
    ],
)  # fmt: skip
def test_decoding_past_the_growth_and_round_the_ring(kind, knobs, positions):
    torch.manual_seed(0)
    mixer = kind(12, heads=3, max_len=64, causal=True, **knobs)
    if positions:
        getattr(mixer, positions)()
    mixer, x = mixer.double().eval(), torch.randn(2, 50, 12, dtype=torch.float64)
    state, outputs = mixer.init_state(2), []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=1e-6, atol=1e-6)
