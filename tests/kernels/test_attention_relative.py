"""A table of relative positions: equal to the N x M bias that it stands for, in linear memory."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from kernels.attention import attention
from kernels.attention.relative import from_diagonals, onto_diagonals
from kernels.attention.score import Score
from tests.kernels.attention_inputs import draw, grads, holes, on

KINDS = {
    "full": {},
    "causal": {"causal": True, "return_lse": True},
    "window": {"window": (8, 8)},
    "one_sided": {"window": (20, 3), "soft_cap": 1.5},
    "causal_window": {"window": (20, 3), "causal": True, "dropout_p": 0.3},
    "relu2": {"activation": "relu2"},
    "laplace": {"window": (200, 100), "activation": "laplace"},
}


def table_of(heads, entries):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(heads, entries, generator=generator, dtype=torch.float64)


def full_bias(table, n, m):
    """One pair at a time."""
    far = table.shape[1] // 2
    at = [[max(-far, min(far, j - (i + m - n))) for j in range(m)] for i in range(n)]
    return table[None, :, far + torch.tensor(at)]


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n,m", [(1, 1), (97, 97), (60, 131), (131, 60)], ids=str)
@pytest.mark.parametrize("heads,entries", [(4, 401), (1, 31), (4, 1)], ids=str)
def test_is_the_bias_that_it_stands_for(small_tiles, heads, entries, n, m, kind, backend):
    x = draw(n, m) | {"table": table_of(heads, entries)}
    results = []
    for full in (False, True):
        leaves = {name: t.clone().requires_grad_() for name, t in x.items()}
        table = leaves["table"]
        given = {"bias": full_bias(table, n, m)} if full else {"relative": table}
        y = on("reference" if full else backend, **KINDS[kind])(
            *(leaves[name] for name in "qkv"), **given, key_mask=holes(2, m)
        )
        y = y if isinstance(y, tuple) else (y,)
        results.append((*y, *grads(y, list(leaves.values()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows,keys", [(1, 1), (1, 5), (5, 1), (3, 4), (7, 2)], ids=str)
def test_diagonals_are_read_and_summed(rows, keys):
    x = torch.arange(2.0 * (rows + keys - 1)).reshape(2, -1)
    tile = from_diagonals(x, rows)
    for i in range(rows):
        for j in range(keys):
            assert torch.equal(tile[:, i, j], x[:, j - i + rows - 1])
    y = torch.randn(tile.shape, generator=torch.Generator().manual_seed(0))
    # the adjoint
    torch.testing.assert_close((tile * y).sum(), (x * onto_diagonals(y)).sum())


def test_memory_is_linear():
    def peak(n):
        with MemTracker() as tracker:
            q, k, v = (torch.randn(2, 2, n, 64, requires_grad=True) for _ in range(3))
            table = torch.randn(2, 2 * n - 1, requires_grad=True)
            y = attention(q, k, v, score=Score(relative=table), backend="eager")
            y.square().sum().backward()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]

    assert peak(2048) < 2.2 * peak(1024)


@pytest.mark.parametrize(
    "table,message",
    [
        (torch.zeros(4, 6), r"\(H, R\) with H 1 or 4, R odd, got \(4, 6\)"),
        (torch.zeros(4, 0), r"R odd, got \(4, 0\)"),
        (torch.zeros(3, 5), r"H 1 or 4, .* got \(3, 5\)"),
        (torch.zeros(5), r"\(H, R\) .* got \(5,\)"),
        (torch.zeros(4, 5, dtype=torch.int64), "floating and on cpu, got torch.int64 on cpu"),
        (torch.zeros(4, 5, device="meta"), "floating and on cpu, got torch.float32 on meta"),
    ],
    ids=["even", "empty", "heads", "flat", "dtype", "device"],
)
def test_bad_tables_are_named(untyped, table, message):
    with pytest.raises(ValueError, match=f"score.relative must be .*{message}"):
        attention(**draw(8, dtype=torch.float32), score=Score(relative=table))
