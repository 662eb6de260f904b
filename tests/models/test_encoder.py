"""The common encoder: pre- and post-norm, norms, hybrids, carries, the layer's index."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models.backbones.encoder import Encoder
from models.blocks.residual import ResidualBlock
from models.blocks.rwkv import RWKVBlock
from models.build import make_mixer
from models.spec import LayerSpec
from tests.conformance.specimens import Sound

SPEC = LayerSpec(dim=8, heads=2, max_len=9, causal=False, depth=3, ffn_dim=16)
CONFIG = {"_target_": "tests.conformance.specimens.Sound"}
X = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.arange(7) < torch.tensor([7, 3])[:, None]


def encoder(ffn=True, **changes):
    torch.manual_seed(0)
    spec = replace(SPEC, **changes)

    def make_block(layer):
        return ResidualBlock(layer, partial(make_mixer, CONFIG), ffn=ffn)

    return Encoder(spec, make_block).double().eval()


def test_pre_norm_equation():
    stack = encoder()
    x = X
    for block in stack.blocks:
        x = x + block.mixer(block.mixer_norm(x), MASK)
        x = x + block.ffn(block.ffn_norm(x))
    y, mask = stack(X, MASK)
    torch.testing.assert_close(y, stack.norm(x))
    assert torch.equal(mask, MASK)


def test_post_norm_equation():
    stack = encoder(norm_position="post")
    x = X
    for block in stack.blocks:
        x = block.mixer_norm(x + block.mixer(x, MASK))
        x = block.ffn_norm(x + block.ffn(x))
    torch.testing.assert_close(stack(X, MASK)[0], x)
    assert stack.norm is None


def test_block_without_ffn():
    stack = encoder(ffn=False, depth=1)
    (block,) = stack.blocks
    torch.testing.assert_close(
        stack(X, MASK)[0], stack.norm(X + block.mixer(block.mixer_norm(X), MASK))
    )
    assert not [name for name, _ in stack.named_parameters() if "ffn" in name]


@pytest.mark.parametrize("norm", ["layer", "batch", "rms", "scale"])
@pytest.mark.parametrize("position", ["pre", "post"])
def test_padded_equals_unpadded_with_every_norm(norm, position):
    stack = encoder(norm=norm, norm_position=position)
    alone = stack(X[1:, :3], MASK[1:, :3])[0]
    torch.testing.assert_close(stack(X, MASK)[0][1:, :3], alone)


@pytest.mark.parametrize("norm", ["layer", "batch", "rms", "scale"])
def test_padding_changes_nothing_in_training(norm):
    first, second = encoder(norm=norm).train(), encoder(norm=norm).train()
    other = torch.where(MASK[..., None], X, 100.0)
    torch.testing.assert_close(first(X, MASK)[0][MASK], second(other, MASK)[0][MASK])


@pytest.mark.parametrize(("factor", "width"), [(1.0, 16), (0.5, 8), (0.1, 2), (2.0, 32)])
def test_ffn_factor_is_the_width_of_the_network(factor, width):
    spec = replace(SPEC, layer=0)
    for kind in (ResidualBlock, RWKVBlock):
        block = kind(spec, partial(make_mixer, CONFIG), ffn_factor=factor)
        assert {p.numel() for p in block.ffn.parameters() if p.ndim == 2} >= {8 * width}
        assert block.double()(X, MASK)[0].shape == X.shape


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 0.01])
def test_ffn_factor_leaves_a_network(factor):
    with pytest.raises(ValueError, match="ffn_factor"):
        ResidualBlock(SPEC, partial(make_mixer, CONFIG), ffn_factor=factor)


def test_ffn_is_gelu():
    ffn = encoder(depth=1).blocks[0].ffn
    expected = ffn[3](torch.nn.functional.gelu(ffn[0](X)))
    torch.testing.assert_close(ffn(X), expected)


def test_every_layer_knows_its_index():
    assert [block.mixer.layer for block in encoder().blocks] == [0, 1, 2]
    assert {block.mixer.depth for block in encoder().blocks} == {3}


def test_carry_goes_from_block_to_block():
    class Counting(ResidualBlock):
        def forward(self, x, mask, carry=None):
            return x, (carry or 0) + 1

    seen = []
    stack = Encoder(SPEC, lambda layer: Counting(layer, partial(make_mixer, CONFIG)))
    stack.blocks[-1].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    stack(X.float(), MASK)
    assert seen == [2]


def test_dropout_on_both_branches():
    def zeros_after(part):
        block = encoder(depth=1, dropout=0.9).train().blocks[0]
        seen = []
        part(block).register_forward_hook(lambda module, args, y: seen.append((y == 0).any()))
        block(X, MASK)
        return bool(seen[-1])

    assert zeros_after(lambda block: block.dropout) and zeros_after(lambda block: block.ffn[2])


def test_dense_only_where_every_mixer_is():
    class Dense(Sound):
        def dense_at(self, n):
            return n <= 4

    made = []

    def make(spec):
        made.append(Dense(8, heads=2, max_len=9, causal=False))
        return made[-1]

    block = ResidualBlock(SPEC, make)
    assert block.dense_at(4) and not block.dense_at(5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "group"}, "norm must be one of"),
        ({"norm_position": "sandwich"}, "norm_position must be pre or post"),
        ({"activation": "tanh"}, "activation must be one of gelu, relu, silu"),
    ],
)
def test_unknown_switch_lists_the_known_ones(changes, words):
    with pytest.raises(ValueError, match=words):
        encoder(**changes)
