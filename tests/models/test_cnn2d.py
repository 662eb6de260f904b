"""The convolutional control: the grid, masks, sizes, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.backbones.cnn2d import Cnn2d, halved
from models.build import build_model
from models.spec import LayerSpec, ModelSpec

SPEC = LayerSpec(dim=6, heads=1, max_len=35, causal=False, grid=(5, 7))


def no_block(layer):
    raise AssertionError("it hosts no block")


def build(*, channels=4, stages=2, blocks=1, **changes):
    torch.manual_seed(0)
    knobs = dict(channels=channels, stages=stages, blocks=blocks)
    return Cnn2d(replace(SPEC, **changes), no_block, **knobs).double().eval()


def test_equals_plain_convolutions_on_the_image():
    net, x = build(), torch.randn(2, 35, 6, dtype=torch.float64)
    # running statistics that are not trivial
    net.train()(x, torch.ones(2, 35, dtype=torch.bool))
    net.eval()

    def norm(layer, y):
        n = layer.norm
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)

    def conv(layer, y, stride=1):
        return norm(layer, F.conv2d(y, layer.convolution.weight, stride=stride, padding=1))

    y = x.transpose(1, 2).reshape(2, 6, 5, 7)
    for number, stage in enumerate(net.stages):
        y = conv(stage.entry, y if number == 0 else F.gelu(y), 2)
        for first, second in zip(stage.firsts, stage.seconds, strict=True):
            y = y + conv(second, F.gelu(conv(first, F.gelu(y))))
    wanted = net.output(F.gelu(y).flatten(2).transpose(1, 2))
    found, mask = net(x, torch.ones(2, 35, dtype=torch.bool))
    assert y.shape[2:] == (2, 2) and mask.shape == (2, 4) and mask.all()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_what_is_masked_is_not_there(training):
    x, mask = torch.randn(3, 35, 6, dtype=torch.float64), torch.rand(3, 35) > 0.4
    mask[2] = False
    other = torch.where(mask[..., None], x, torch.nan)
    (y, real), (z, same) = (build().train(training)(inputs, mask) for inputs in (x, other))
    assert torch.equal(real, same) and not real[2].any()
    torch.testing.assert_close(z, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 8, 20, 34])
def test_padded_rows_equal_shorter_images(n):
    net, x = build(), torch.randn(2, 35, 6, dtype=torch.float64)
    y, real = net(x, (torch.arange(35) < n).expand(2, 35))
    alone, all_real = net(x[:, :n], torch.ones(2, n, dtype=torch.bool))
    torch.testing.assert_close(y[0][real[0]], alone[0][all_real[0]])


def test_the_mask_of_a_coarser_grid():
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 1] = mask[2, 4] = True
    coarse, grid = halved(mask.flatten()[None], (3, 5))
    assert grid == (2, 3)
    assert coarse.reshape(2, 3).tolist() == [[True, False, False], [False, False, True]]


def test_sees_rows_and_columns_as_neighbours():
    net = build(stages=1)
    x = torch.randn(1, 35, 6, dtype=torch.float64, requires_grad=True)
    y, _ = net(x, torch.ones(1, 35, dtype=torch.bool))
    (grad,) = torch.autograd.grad(y[0, 0].sum(), x)
    reached = grad[0].abs().amax(-1).reshape(5, 7) > 0
    # stem of stride 2, then two convolutions: 5 positions from the corner either way
    assert reached[:, :6].all() and not reached[:, 6].any()


def test_refusals():
    with pytest.raises(Unsupported, match="needs a task with rows and columns"):
        build(grid=None)
    with pytest.raises(Unsupported, match="sees the whole image; choose a task that is not causal"):
        build(causal=True)
    with pytest.raises(Unsupported, match="no place for a CLS vector on its 5 x 7 grid"):
        build(max_len=36)
    for knob in ("channels", "stages", "blocks"):
        with pytest.raises(ValueError, match="must be at least 1"):
            build(**{knob: 0})


@pytest.mark.parametrize("vocab, features", [(256, None), (None, 1)], ids=["tokens", "scalars"])
def test_a_whole_model_of_either_pixel_encoding(vocab, features):
    spec = ModelSpec(
        layer=SPEC, kind="classify", classes=3, vocab=vocab, features=features, positions="learned",
        embedding_std=1.0, pooling="mean", head="linear", head_dim=1,
    )  # fmt: skip
    backbone = {"_target_": "models.backbones.cnn2d.Cnn2d", "channels": 4}
    block = {"_target_": "models.blocks.residual.ResidualBlock"}
    mixer = {"_target_": "models.mixers.exact.transformer.Transformer"}
    model = build_model(spec, backbone=backbone, layers=[(block, mixer)])
    x = torch.randint(256, (2, 35)) if vocab else torch.randn(2, 35, 1)
    assert model(x, torch.ones(2, 35, dtype=torch.bool)).shape == (2, 3)
    assert not model.mixers() and not model.dense_at(35)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 3 + 3 * 2 * 2
