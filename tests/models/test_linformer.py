"""Keys and values projected along the sequence."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.low_rank.linformer import Linformer

SHARING = ("kv", "headwise", "none")


def build(k=4, share="kv", max_len=17, kind=Linformer, **knobs):
    torch.manual_seed(0)
    if kind is Linformer:
        knobs.update(k=k, share=share)
    return kind(12, heads=3, max_len=max_len, causal=False, **knobs).double().eval()


@pytest.mark.parametrize("share", SHARING)
def test_equals_the_formula_head_by_head(share):
    mixer, x = build(share=share), torch.randn(2, 11, 12, dtype=torch.float64)
    q, k, v, _ = mixer.project(x)
    e = mixer.project_keys
    f = e if share == "kv" else mixer.project_values
    assert e.shape == (3 if share == "none" else 1, 4, 17)
    heads = []
    for h in range(3):
        slot = h if share == "none" else 0
        keys, values = e[slot, :, :11] @ k[:, h], f[slot, :, :11] @ v[:, h]
        weights = (q[:, h] @ keys.transpose(1, 2) / 2).softmax(-1)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 11, dtype=torch.float64))
        heads.append(weights @ values)
    wanted = mixer.output(torch.cat(heads, dim=-1))
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", SHARING)
def test_identity_projections_make_it_dense(share):
    (equals,) = Linformer.card.equals
    mixer, dense = build(**equals.knobs(17), share=share), build(kind=Transformer)
    equals.prepare(mixer)
    dense.load_state_dict(mixer.state_dict(), strict=False)
    x = torch.randn(2, 17, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), dense(x), rtol=1e-12, atol=1e-12)


def test_sharing_counts_its_parameters():
    sizes = {s: sum(p.numel() for p in build(share=s).parameters()) for s in SHARING}
    one = 4 * 17
    assert sizes["headwise"] - sizes["kv"] == one
    assert sizes["none"] - sizes["kv"] == 5 * one


def test_padding_does_not_matter_whatever_it_holds():
    mixer, x = build(), torch.randn(4, 13, 12, dtype=torch.float64)
    mask = torch.arange(13) < torch.tensor([[13], [7], [1], [0]])
    mask[0, 2] = mask[1, 5] = False
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    assert y.isfinite().all()
    for row, n in ((0, 13), (1, 7), (2, 1)):
        one = mixer(x[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(y[row : row + 1, :n], one, rtol=1e-12, atol=1e-12)


def test_what_it_refuses():
    x = torch.randn(2, 18, 12, dtype=torch.float64)
    with pytest.raises(Unsupported, match="at most 17 positions, got 18"):
        build()(x)
    with pytest.raises(Unsupported, match="cannot be causal"):
        Linformer(12, heads=3, max_len=17, causal=True)
    with pytest.raises(ValueError, match="share must be one of kv, headwise, none, got 'layer'"):
        build(share="layer")
    with pytest.raises(ValueError, match="k must be at least 1"):
        build(k=0)
