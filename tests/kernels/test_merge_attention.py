"""Merged attention: one softmax over all keys; rows sorted, gathered and put back."""

import functools

import pytest
import torch

from kernels.attention import attention
from kernels.merge_attention import OP, merge_attention, rows
from kernels.tolerance import check, poisoned


def draw(parts, n, v=5, dtype=torch.float64, seed=0):
    """Outputs and log-sum-exps of parts, some of which have seen no key; one row has seen none."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(parts, 2, 3, n, v, generator=generator, dtype=torch.float64)
    lses = 3 * torch.randn(parts, 2, 3, n, generator=generator, dtype=torch.float64)
    hidden = torch.rand(lses.shape, generator=generator) < 0.2
    hidden[:, 0, 0, 0] = True
    return outputs.to(dtype), lses.masked_fill(hidden, -torch.inf).to(dtype)


def grads(outputs, inputs):
    generator = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, cotangents)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_parts_make_the_whole(backend):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 40, 8, generator=generator).double() for _ in range(3))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    whole = attention(q, k, v, return_lse=True, backend="reference")
    cuts = [slice(0, 7), slice(7, 8), slice(8, 40)]
    parts = [attention(q, k[:, :, c], v[:, :, c], return_lse=True) for c in cuts]
    merged = merge_attention(*zip(*parts, strict=True), backend=backend)
    torch.testing.assert_close(merged, whole, rtol=1e-12, atol=1e-12)
    found, wanted = grads(merged, inputs), grads(whole, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 63, 257])
def test_eager_equals_the_reference_in_fp64(parts, n):
    x = [t.requires_grad_() for t in draw(parts, n)]
    results = []
    for backend in ("eager", "reference"):
        with poisoned():
            y = merge_attention(*x, backend=backend)
            results.append((*y, *grads(y, x)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)
    assert all(grad.isfinite().all() for grad in results[0][2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_eager_holds_the_tolerance(dtype):
    outputs, lses = draw(3, 100)
    pair = (functools.partial(merge_attention, backend=b) for b in ("eager", "reference"))
    with poisoned():
        check(*pair, {"outputs": outputs, "lses": lses}, dtype=dtype)


def test_gradcheck():
    outputs, lses = draw(3, 4)
    lses = lses.clamp(min=-4)
    inputs = (outputs.requires_grad_(), lses.requires_grad_())
    assert torch.autograd.gradcheck(functools.partial(merge_attention, backend="eager"), inputs)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_a_part_that_has_seen_nothing_is_not_looked_at(backend):
    outputs, lses = draw(3, 6, dtype=torch.float32)
    lses[1], outputs[1] = -torch.inf, torch.nan
    x = [t.requires_grad_() for t in (outputs, lses)]
    y, lse = merge_attention(*x, backend=backend)
    some = [t[[0, 2]] for t in x]
    torch.testing.assert_close((y, lse), merge_attention(*some, backend=backend))
    assert (y[0, 0, 0] == 0).all() and lse[0, 0, 0] == -torch.inf
    for grad in grads((y, lse), x):
        assert grad.isfinite().all() and (grad[1] == 0).all()


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_nan_does_not_become_zero(backend):
    outputs, lses = draw(2, 4)
    outputs, lses = outputs.nan_to_num(), lses.clamp(min=-4)
    outputs[0, 0, 0, 1] = torch.nan
    y, lse = merge_attention(outputs, lses, backend=backend)
    assert y[0, 0, 1].isnan().all() and y[0, 0, 2].isfinite().all()
    lses[1, 0, 0, 3] = torch.nan
    y, lse = merge_attention(outputs, lses, backend=backend)
    assert y[0, 0, 3].isnan().all() and lse[0, 0, 3].isnan()


def test_far_apart_log_sum_exps_do_not_overflow():
    outputs, lses = draw(2, 4)
    lses = torch.stack([torch.full_like(lses[0], 1e4), torch.full_like(lses[0], -1e4)])
    y, lse = merge_attention(outputs, lses)
    assert torch.equal(y, outputs[0]) and torch.equal(lse, lses[0])


def test_lists_and_stacks_and_dtypes():
    outputs, lses = draw(3, 9, dtype=torch.float32)
    y, lse = merge_attention(list(outputs.half()), tuple(lses.double()))
    assert y.dtype == torch.float16 and lse.dtype == torch.float64
    torch.testing.assert_close(y.float(), merge_attention(outputs, lses)[0], rtol=2e-3, atol=2e-3)
    views = outputs.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(merge_attention(views, lses), merge_attention(outputs, lses))


@pytest.mark.parametrize(
    "outputs,lses,message",
    [
        ([], [], "at least 1"),
        ([torch.zeros(1, 1, 2, 3)], [], "as many lses as outputs"),
        ([torch.zeros(1, 1, 2)], [torch.zeros(1, 1, 2)], r"outputs must be .*\(1, 1, 2\)"),
        ([torch.zeros(1, 1, 2, 3)], [torch.zeros(1, 1, 3)], r"lses must be .*\(1, 1, 3\)"),
        ([torch.zeros(1, 1, 0, 3)], [torch.zeros(1, 1, 0)], r"\(1, 1, 0, 3\)"),
        ([torch.zeros(1, 1, 2, 3)], [torch.zeros(1, 1, 2).int()], "torch.int32 on cpu"),
        (
            [torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3, device="meta")],
            [torch.zeros(1, 1, 2)] * 2,
            "torch.float32 on meta",
        ),
    ],
)
def test_bad_input_is_named(untyped, outputs, lses, message):
    with pytest.raises(ValueError, match=message):
        merge_attention(outputs, lses)


def test_ops_table():
    assert OP.auto["cpu"] == ("eager",)


# -- rows ---------------------------------------------------------------------------------------


def test_sorting_is_stable_and_padding_comes_last():
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(0, 4, (2, 3, 30), generator=generator)
    order, inverse = rows.sort_by_bucket(buckets)
    # unique keys: bucket first, then position
    keys = buckets * 30 + torch.arange(30)
    assert torch.equal(keys.gather(2, order), keys.sort(-1).values)
    assert torch.equal(order.gather(2, inverse), torch.arange(30).expand(2, 3, -1))
    mask = torch.rand(2, 30, generator=generator) > 0.4
    order, _ = rows.sort_by_bucket(buckets, mask)
    for b in range(2):
        real = int(mask[b].sum())
        alone, _ = rows.sort_by_bucket(buckets[b : b + 1, :, mask[b]])
        assert torch.equal(mask[b].nonzero().flatten()[alone[0]], order[b, :, :real])


def test_permuted_rows_come_back():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    order, inverse = rows.sort_by_bucket(torch.randint(0, 3, (2, 3, 7), generator=generator))
    y = rows.permute_rows(x, order, inverse)
    assert torch.equal(y, x.gather(2, order[..., None].expand(-1, -1, -1, 2)))
    assert torch.equal(rows.permute_rows(y, inverse, order), x)
    assert torch.autograd.gradcheck(lambda x: rows.permute_rows(x, order, inverse), (x,))
    orders, inverses = torch.stack([order, inverse]), torch.stack([inverse, order])
    assert torch.equal(rows.permute_rows(x, orders, inverses)[0], y)
    assert torch.autograd.gradcheck(lambda x: rows.permute_rows(x, orders, inverses), (x,))


def test_take_and_add_are_adjoint():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 6, (2, 3, 9), generator=generator)
    taken = rows.take_rows(x, index)
    assert torch.equal(taken, x.gather(2, index[..., None].expand(-1, -1, -1, 2)))
    g = torch.randn(taken.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad(taken, x, g)[0]
    torch.testing.assert_close(rows.add_rows(g, index, 6), wanted, rtol=1e-14, atol=1e-14)
    flags = x[..., 0] > 0
    assert torch.equal(rows.take_rows(flags, index), flags.gather(2, index))


@pytest.mark.parametrize("before,after", [(1, 0), (0, 0), (2, 1)])
def test_look_around(before, after):
    x = torch.arange(1, 13).view(1, 1, 4, 3)
    seen = rows.look_around(x, before, after)
    wrapped = rows.look_around(x, before, after, wrap=True)
    for c in range(4):
        near = range(c - before, c + after + 1)
        wanted = [x[0, 0, n] if 0 <= n < 4 else torch.zeros_like(x[0, 0, 0]) for n in near]
        assert torch.equal(seen[0, 0, c], torch.cat(wanted))
        assert torch.equal(wrapped[0, 0, c], torch.cat([x[0, 0, n % 4] for n in near]))
    deep = x[..., None].expand(-1, -1, -1, -1, 2).double()
    assert torch.equal(rows.look_around(deep, before, after)[..., 1], seen.double())
