"""Attention over 2 and 4 processes against attention in one, forward and every gradient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lra.conformance.probe import as_users_run
from models.mixers.exact.ring_attention import RingAttention
from models.mixers.exact.transformer import Transformer
from tests.models.drivers.ring_processes import CASES, Case, outcome

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "models" / "drivers" / "ring_processes.py"


@pytest.fixture(scope="module", params=[2, 4], ids=lambda size: f"P{size}")
def ring(request, tmp_path_factory):
    """What each process found, in the order of the ranks."""
    folder = tmp_path_factory.mktemp("ring")
    ended = subprocess.run(
        [sys.executable, str(DRIVER), str(request.param), str(folder)], capture_output=True,
        text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def whole(slices, striped):
    """The sequence of the processes' slices ``(B, n, D)``."""
    return torch.stack(slices, 2).flatten(1, 2) if striped else torch.cat(slices, 1)


@pytest.mark.parametrize("name", CASES)
def test_equals_one_process(ring, name):
    case = CASES[name]
    mixer, (x, w, mask) = case.mixer(), case.inputs(len(ring))
    wanted = outcome(mixer, x, w, mask)
    striped = case.causal and case.balance == "striped"
    rows = slice(None) if mask is None else mask
    for index, what in enumerate(("output", "gradient of x")):
        got = whole([found[name][index] for found in ring], striped)
        torch.testing.assert_close(
            got[rows],
            wanted[index][rows],
            rtol=1e-12,
            atol=1e-12,
            msg=lambda m, w=what: f"{w}: {m}",
        )
    parameters = [key for key, _ in mixer.named_parameters()]
    for index, key in enumerate(parameters, start=2):
        # each process has the gradient of its own rows
        got = sum(found[name][index] for found in ring)
        torch.testing.assert_close(
            got, wanted[index], rtol=1e-11, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_the_same_weights_are_dropped_backward(ring):
    slope, along, _ = (sum(parts) for parts in zip(*(f["dropped"] for f in ring), strict=True))
    assert slope == pytest.approx(along, rel=1e-6)


def test_processes_drop_differently_from_one_random_state(ring):
    first, second = (found["dropped"][2] for found in ring[:2])
    assert not torch.allclose(first, second)


def test_half_precision_travels(ring):
    mixer, (x, _, _) = Case(True).mixer(), Case(True).inputs(len(ring))
    x.requires_grad_()
    y = mixer(x)
    y.square().sum().backward()
    for index, wanted in enumerate((y, x.grad)):
        got = torch.cat([found["half"][index] for found in ring], 1)
        assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_what_a_ring_refuses(ring):
    for found in ring:
        uneven, context, decoding, length = found["refused"]
        assert uneven.startswith("ValueError: every process of the ring needs a slice of one shape")
        assert "N = 3, 2" in uneven and "pad the sequence" in uneven
        assert context == (
            "Unsupported: RingAttention takes no context from another sequence in a ring"
        )
        assert decoding == "Unsupported: RingAttention decodes in one process, without use_ring"
        n, size = len(ring) + 1, len(ring)
        assert length == (
            f"ValueError: RingAttention: {size} processes do not divide N={n}: pad it to "
            f"{2 * size} and mask the rest"
        )


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["both, alibi", "causal, rotary", "striped, masked"])
def test_a_ring_of_one_is_the_transformer(name, alone):
    case = CASES[name]
    mixer, (x, w, mask) = case.mixer(), case.inputs(4)
    wanted = outcome(mixer, x, w, mask)
    mixer.use_ring(alone)
    assert torch.equal(mixer.shard(x), x)
    for got, expected in zip(outcome(mixer, x, w, mask), wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_no_ring_unless_asked():
    """Processes that train on different examples are no ring."""
    mixer = RingAttention(12, heads=3, max_len=64, causal=True)
    other = Transformer(12, heads=3, max_len=64, causal=True)
    other.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 9, 12)
    assert mixer.ring is None and torch.equal(mixer.shard(x), x)
    torch.testing.assert_close(mixer(x), other(x))


def test_unknown_balance():
    with as_users_run(), pytest.raises(ValueError, match="one of none, striped, got 'zigzag'"):
        RingAttention(12, heads=3, max_len=64, causal=True, causal_balance="zigzag")
