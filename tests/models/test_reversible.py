"""Reversible layers: the equations under autograd, undone step by step, with nothing kept."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from kernels.errors import Unsupported
from lra import presets
from lra.config import load
from lra.measurement.memory import LiveBytes, tensors_in
from models.backbones.encoder import Encoder
from models.backbones.reversible import Reversible
from models.blocks.mega import Mega
from models.blocks.residual import ResidualBlock
from models.blocks.rwkv import RWKVBlock
from models.build import make_mixer
from models.mixers.exact.transformer import Transformer
from models.spec import LayerSpec

DIM, N = 8, 19
SPEC = LayerSpec(
    dim=DIM, heads=2, max_len=N, causal=False, depth=3, ffn_dim=16, dropout=0.3, mixer_dropout=0.2
)
MIXERS = {
    "transformer": {"_target_": "models.mixers.exact.transformer.Transformer"},
    "reformer": {
        "_target_": "models.mixers.hashed.reformer.Reformer", "bucket_size": 4, "n_hashes": 2,
    },
}  # fmt: skip
HOSTED = pytest.mark.parametrize("mixer", sorted(MIXERS))
MASK = torch.arange(N) < torch.tensor([[N], [7]])


def stack(mixer="transformer", kind=Reversible, block=ResidualBlock, *, spec=SPEC, **knobs):
    torch.manual_seed(0)
    made = kind(spec, lambda layer: block(layer, partial(make_mixer, MIXERS[mixer]), **knobs))
    with torch.no_grad():
        # biases start as zeros: nobody would miss them
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().train()


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, N, DIM, generator=generator, dtype=dtype)


def halves(stack, x, mask):
    """(x1, x2) before the first layer and after each, by the equations."""
    x1 = x2 = x
    found = [(x1, x2)]
    for block in stack.blocks:
        x1 = x1 + block.dropout(block.mixer(block.mixer_norm(x2, mask), mask))
        if block.ffn is not None:
            x2 = x2 + block.dropout(block.ffn(block.ffn_norm(x1, mask)))
        else:
            x1, x2 = x2, x1  # the next layer's turn is the other half
        found.append((x1, x2))
    return found


def plain(stack, x, mask):
    x1, x2 = halves(stack, x.masked_fill(~mask[..., None], 0), mask)[-1]
    return stack.norm((x1 + x2) / 2, mask)


def run(function, stack, x, mask):
    """Output, gradients by name, and a number drawn afterwards."""
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    y = function(stack, x, mask)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    (y * weight)[mask].sum().backward()
    grads = {name: parameter.grad for name, parameter in stack.named_parameters()}
    stack.zero_grad(set_to_none=True)
    return y.detach(), grads | {"x": x.grad}, torch.rand(())


def forward(stack, x, mask):
    y, same = stack(x, mask)
    assert torch.equal(same, mask)
    return y


def assert_same_run(first, second):
    torch.testing.assert_close(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    for name, grad in second[1].items():
        assert grad is not None, name
        torch.testing.assert_close(first[1][name], grad, msg=lambda m, n=name: f"{n}: {m}")
        assert grad.abs().max() > 0, name
    assert torch.equal(first[2], second[2]), "other random numbers after the step"


@HOSTED
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "all real"])
@pytest.mark.parametrize("causal", [False, True])
def test_outputs_and_gradients_are_those_of_autograd(mixer, training, mask, causal):
    """With dropout and hashes drawn anew: both see the same random numbers."""
    made = stack(mixer, spec=replace(SPEC, causal=causal)).train(training)
    assert_same_run(run(forward, made, inputs(), mask), run(plain, made, inputs(), mask))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_block_without_a_second_branch_takes_the_halves_in_turn(depth):
    made = stack(spec=replace(SPEC, depth=depth), ffn=False)
    assert len(made.branches()) == depth
    assert_same_run(run(forward, made, inputs(), MASK), run(plain, made, inputs(), MASK))


def test_hosts_the_blocks_that_change_the_second_branch_alone():
    made = stack(block=RWKVBlock, spec=replace(SPEC, causal=True))
    assert_same_run(run(forward, made, inputs(), MASK), run(plain, made, inputs(), MASK))


@HOSTED
def test_what_is_computed_backwards_is_what_was_there(mixer):
    """To rounding, at every layer: whatever the layers say, however much they add."""
    made, seen = stack(mixer, spec=replace(SPEC, depth=6)).eval(), []
    expected = [half for pair in halves(made, inputs(), torch.ones_like(MASK)) for half in pair]
    for block in made.blocks:
        for norm in (block.mixer_norm, block.ffn_norm):
            norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    x = inputs().requires_grad_()
    y, _ = made(x, torch.ones_like(MASK))
    there = list(seen)
    seen.clear()
    y.sum().backward()
    assert len(seen) == len(there) == 12
    for again, first in zip(reversed(seen), there, strict=True):
        torch.testing.assert_close(again, first, rtol=1e-12, atol=1e-12)
    # x2 of each layer, then its y1
    wanted = [half for i in range(6) for half in (expected[2 * i + 1], expected[2 * i + 2])]
    for first, half in zip(there, wanted, strict=True):
        torch.testing.assert_close(first, half)


def test_without_gradients_it_computes_the_same():
    made = stack().eval()
    with torch.no_grad():
        torch.testing.assert_close(made(inputs(), MASK)[0], plain(made, inputs(), MASK))


def test_a_frozen_parameter_and_an_input_without_gradient():
    made = stack()
    frozen = made.blocks[1].ffn[0].weight.requires_grad_(False)
    torch.manual_seed(5)
    made(inputs(), MASK)[0][MASK].square().sum().backward()
    found = {name: parameter.grad for name, parameter in made.named_parameters()}
    made.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    plain(made, inputs(), MASK)[MASK].square().sum().backward()
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    assert frozen.grad is None


def test_a_branch_that_two_layers_share_gets_both_gradients():
    made = stack()
    made.blocks[2].ffn = made.blocks[0].ffn
    assert_same_run(run(forward, made, inputs(), MASK), run(plain, made, inputs(), MASK))


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@HOSTED
def test_under_autocast(mixer, inside):
    """The second time in the same precision, wherever backward is called, and with gradients even
    where an evaluation under the same autocast has cast every weight before."""
    made, x = stack(mixer).float(), inputs(torch.float32)

    def grads(function, dtype):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            with torch.no_grad():
                torch.manual_seed(5)
                function(made, x, MASK)
            torch.manual_seed(5)
            loss = function(made, x, MASK).float()[MASK].square().mul(x[MASK]).sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found = {name: parameter.grad for name, parameter in made.named_parameters()}
        made.zero_grad(set_to_none=True)
        return found

    kinds = set()
    made.blocks[0].mixer.query.register_forward_hook(lambda _, args, y: kinds.add(y.dtype))
    found = grads(forward, torch.bfloat16)
    assert kinds == {torch.bfloat16}
    wide = grads(plain, None)
    for name, grad in found.items():
        assert grad is not None and grad.dtype == torch.float32, name
        assert (grad - wide[name]).norm() < 0.1 * wide[name].norm(), name


def kept(kind, mixer, depth):
    """Bytes that live between forward and backward; the peak of both, less the gradients."""
    made = stack(mixer, kind, spec=replace(SPEC, depth=depth)).float()
    x = inputs(torch.float32).requires_grad_()
    with LiveBytes(torch.device("cpu")) as live:
        for tensor in tensors_in([made, x, MASK]):
            live.see(tensor)
        before = live.now
        y, _ = made(x, MASK)
        between = live.now - before
        y.square().sum().backward()
    own = sum(p.nbytes for p in made.parameters())
    return between, live.peak - before - own


@HOSTED
def test_memory_does_not_grow_with_the_depth(mixer):
    (first, shallow), (second, deep) = (kept(Reversible, mixer, depth) for depth in (2, 8))
    assert second == first
    assert deep <= shallow
    layer = 2 * N * DIM * 4
    assert first <= 6 * layer
    (first, shallow), (second, deep) = (kept(Encoder, mixer, depth) for depth in (2, 8))
    assert second - first > 6 * 5 * layer and deep - shallow > 6 * 5 * layer


def test_two_passes_before_one_backward():
    """A pair of texts, or accumulated parts of a batch: each pass has its own random numbers."""

    def twice(function):
        return lambda made, x, mask: function(made, x, mask) + function(made, 2 * x, mask)

    made = stack("reformer")
    assert_same_run(
        run(twice(forward), made, inputs(), MASK), run(twice(plain), made, inputs(), MASK)
    )


def test_gradients_of_one_tensor_and_of_a_graph_that_stays():
    made, x = stack().eval(), inputs().requires_grad_()
    y = made(x, MASK)[0][MASK].square().sum()
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    (second,) = torch.autograd.grad(y, x)
    (wanted,) = torch.autograd.grad(plain(made, x, MASK)[MASK].square().sum(), x)
    torch.testing.assert_close(first, wanted)
    assert torch.equal(first, second)
    assert all(parameter.grad is None for parameter in made.parameters())


def test_gradients_reach_distributed_data_parallel(tmp_path):
    """One process of its own is enough to see that every bucket of gradients is filled."""
    made = stack("reformer").eval()
    alone = copy.deepcopy(made)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(made)
        for _ in range(2):
            wrapped(inputs(), MASK)[0][MASK].square().sum().backward()
            plain(alone, inputs(), MASK)[MASK].square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for mine, theirs in zip(made.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_parameters_have_the_names_of_the_encoder():
    made, encoder = stack(), stack(kind=Encoder)
    assert list(made.state_dict()) == list(encoder.state_dict())


def test_a_preset_takes_it_from_the_command_line():
    words = ["model=reformer", "backbone=reversible"]
    config = load(presets.compose(*words), words)
    assert config.backbone["_target_"] == "models.backbones.reversible.Reversible"
    assert config.model == "reformer"


class WithLoss(Transformer):
    def aux_loss(self):
        return None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_position": "post"}, "set recipe.norm_position=pre"),
        ({"norm": "batch"}, "set recipe.norm=layer, rms or scale"),
    ],
)
def test_recipes_that_it_refuses(changes, words):
    with pytest.raises(Unsupported, match=words):
        stack(spec=replace(SPEC, **changes))


def test_parts_that_it_refuses():
    with pytest.raises(Unsupported, match="Mega is not made of them: choose block=residual"):
        stack(block=Mega)
    with pytest.raises(Unsupported, match="WithLoss has a loss of its own"):
        Reversible(SPEC, lambda s: ResidualBlock(s, lambda s: WithLoss(
            s.dim, heads=s.heads, max_len=s.max_len, causal=False)))  # fmt: skip
