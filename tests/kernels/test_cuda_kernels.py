"""The CUDA backends, emulated: right, in every dtype, and each of their barriers is needed."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.tolerance import check, poisoned
from tests.kernels.cuda_emulator.emulate import ASCENDING, DESCENDING, barriers, emulated

Inputs = dict[str, Tensor]
OPS = ("selective_scan", "wkv", "vandermonde_kernel", "cauchy_kernel")
LENGTHS = (1, 2, 16, 63, 100, 257)


def module(op: str, backend: str) -> Any:
    return importlib.import_module(f"kernels.{op}.{backend}")


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def held(op: str, inputs: Inputs, dtype: torch.dtype = torch.float32, **kwargs: Any) -> None:
    """The rule of kernels.tolerance, output and every gradient."""
    with poisoned():
        check(module(op, "cuda").run, module(op, "reference").run, inputs, dtype=dtype, **kwargs)


def selective_scan(batch: int, channels: int, length: int, states: int, groups: int = 1) -> Inputs:
    step = drawn(batch, channels, length, seed=1).abs()
    # a hidden token, a tiny and a large step
    for t, value in ((-1, 0.0), (length // 2, 1e-4), (length // 3, 5.0)):
        step[..., t] = value
    return {
        "u": drawn(batch, channels, length, seed=0),
        "delta": step,
        "a": -drawn(channels, states, seed=2).exp(),
        "b": drawn(batch, groups, states, length, seed=3),
        "c": drawn(batch, groups, states, length, seed=4),
        "initial_state": drawn(batch, channels, states, seed=5),
    }


def wkv(batch: int, channels: int, length: int) -> Inputs:
    decay = drawn(channels, seed=0).abs()
    # forgets nothing, forgets at once
    decay[0], decay[-1] = 0, 20
    state = drawn(batch, 3, channels, seed=4)
    state[:, 1] = state[:, 1].abs() + 0.5
    return {
        "w": decay,
        "u": drawn(channels, seed=1),
        "k": 2 * drawn(batch, length, channels, seed=2),
        "v": drawn(batch, length, channels, seed=3),
        "initial_state": state,
    }


def vandermonde(rows: tuple[int, ...], states: int) -> Inputs:
    size = -drawn(*rows, states, seed=1).abs()
    # nearly no decay, and a = 0
    size[..., 0], size[..., -1] = -1e-3, -1e6
    return {
        "c": drawn(*rows, states, seed=0, dtype=torch.complex128),
        "log_a": torch.complex(size, drawn(*rows, states, seed=2).clamp(-math.pi, math.pi)),
    }


def cauchy(sums: tuple[int, ...], rows: tuple[int, ...], states: int, length: int) -> Inputs:
    poles = torch.complex(-drawn(*rows, states, seed=1).abs() - 0.1, drawn(*rows, states, seed=2))
    return {
        "v": drawn(*sums, *rows, states, seed=0, dtype=torch.complex128),
        "z": torch.complex(torch.zeros(length).double(), drawn(length, seed=3)),
        "w": poles,
    }


# of each op: more of everything than one block, tile or warp takes at a time
LARGE: dict[str, Callable[[], tuple[Inputs, dict[str, Any]]]] = {
    "selective_scan": lambda: (selective_scan(1, 10, 40, 20, groups=2), {}),
    "wkv": lambda: (wkv(2, 130, 40), {}),
    "vandermonde_kernel": lambda: (vandermonde((2,), 40), {"length": 600}),
    "cauchy_kernel": lambda: (cauchy((5,), (2,), 40, 150), {}),
}


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING], ids=["ascending", "descending"])
@pytest.mark.parametrize("op", OPS)
def test_larger_than_a_block(op: str, order: bool) -> None:
    inputs, kwargs = LARGE[op]()
    with emulated(order=order):
        held(op, inputs, **kwargs)


@pytest.mark.parametrize(
    "op,line",
    [(op, line) for op in OPS for line in barriers(module(op, "cuda").SOURCE)],
)
def test_every_barrier_is_needed(op: str, line: int) -> None:
    inputs, kwargs = LARGE[op]()
    caught = 0
    for order in (ASCENDING, DESCENDING):
        try:
            with emulated(order=order, without_line=line):
                held(op, inputs, **kwargs)
        except AssertionError:
            caught += 1
    assert caught, f"{op}: without the barrier of line {line} all is as before"


def test_barriers_are_found() -> None:
    """Of every source but WKV's, whose threads share nothing; none of another kind."""
    for op in OPS:
        source = module(op, "cuda").SOURCE
        assert bool(barriers(source)) is (op != "wkv"), op
        assert len(barriers(source)) == source.read_text().count("__sync"), op


@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan(length: int) -> None:
    with emulated():
        held("selective_scan", selective_scan(2, 3, length, 4))


@pytest.mark.parametrize("length", LENGTHS)
def test_wkv(length: int) -> None:
    with emulated():
        held("wkv", wkv(2, 5, length))


@pytest.mark.parametrize("length", LENGTHS)
def test_vandermonde_kernel(length: int) -> None:
    with emulated():
        held("vandermonde_kernel", vandermonde((2, 3), 5), length=length)


@pytest.mark.parametrize("length", LENGTHS)
def test_cauchy_kernel(length: int) -> None:
    with emulated():
        held("cauchy_kernel", cauchy((), (3,), 5, length))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    with emulated():
        held("selective_scan", selective_scan(2, 3, 50, 4), dtype)
        held("wkv", wkv(2, 5, 50), dtype)


def test_mixed_precision() -> None:
    """Tensors in bf16, parameters in fp32, as under autocast: u's and v's dtype comes back."""
    inputs = {n: x.float() for n, x in selective_scan(2, 3, 40, 4).items()}
    inputs |= {name: inputs[name].bfloat16() for name in ("u", "b", "c")}
    with emulated():
        y, state = module("selective_scan", "cuda").run(**inputs)
    truth, _ = module("selective_scan", "reference").run(
        **{name: x.double() for name, x in inputs.items()}
    )
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.double(), truth, rtol=2**-8, atol=2**-8)


def test_all_options_of_the_selective_scan() -> None:
    inputs = selective_scan(2, 6, 40, 20, groups=3)
    inputs |= {"d": drawn(6, seed=6), "z": drawn(2, 6, 40, seed=7), "delta_bias": drawn(6, seed=8)}
    inputs["delta"] = drawn(2, 6, 40, seed=9)
    with emulated():
        held("selective_scan", inputs, delta_softplus=True)
        del inputs["initial_state"], inputs["z"]
        held("selective_scan", inputs, delta_softplus=True)


def test_wkv_from_nothing_with_hidden_and_extreme_keys() -> None:
    inputs = wkv(2, 4, 50)
    inputs["w"] = inputs["w"].clamp(max=2)
    del inputs["initial_state"]
    # nothing to see at first, in all of a tile, and everywhere
    inputs["k"][:, :3], inputs["k"][0, 16:32], inputs["k"][1, :, 2] = (-math.inf,) * 3
    with emulated():
        held("wkv", inputs)
        inputs["k"] = inputs["k"].clamp(-1e4, 1e4)
        inputs["k"][:, 20], inputs["k"][:, 41] = 1e4, -1e4
        held("wkv", inputs)


@pytest.mark.parametrize("shape,shape_a", [((2, 3, 4), (3, 4)), ((3, 4), (1, 4)), ((4,), (2, 4))])
def test_shapes_broadcast(shape: tuple[int, ...], shape_a: tuple[int, ...]) -> None:
    powers = vandermonde(shape[:-1], 4) | {"log_a": vandermonde(shape_a[:-1], 4)["log_a"]}
    fractions = cauchy((), shape[:-1], 4, 20) | {"w": cauchy((), shape_a[:-1], 4, 20)["w"]}
    with emulated():
        held("vandermonde_kernel", powers, length=20)
        held("cauchy_kernel", fractions)


def test_long_kernel_near_the_unit_circle() -> None:
    """Phases in fp32 would be wrong by 1e-2 here."""
    length, c = 16384, drawn(1, 8, seed=0, dtype=torch.complex64)
    log_a = torch.complex(torch.full((1, 8), -1e-6), torch.linspace(0.5, 9.5, 8)[None])
    truth = module("vandermonde_kernel", "reference").run(c.cdouble(), log_a.cdouble(), length)
    with emulated():
        kernel = module("vandermonde_kernel", "cuda").run(c, log_a, length)
    assert (kernel - truth).abs().max() < 2e-6 * truth.abs().max()


def test_strides_and_lazy_conjugates() -> None:
    powers, scan = vandermonde((3,), 4), selective_scan(2, 3, 20, 4)
    kernel, other = (module("vandermonde_kernel", "cuda").run, module("selective_scan", "cuda").run)
    c = powers["c"].cfloat()
    log_a = powers["log_a"].cfloat()
    scan = {name: x.float() for name, x in scan.items()}
    strided = {name: x.mT.contiguous().mT for name, x in scan.items()}
    with emulated():
        assert torch.equal(kernel(c.conj(), log_a, 9), kernel(c.conj().resolve_conj(), log_a, 9))
        for x, y in zip(other(**strided), other(**scan), strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("op", OPS)
def test_nan_stays(op: str) -> None:
    inputs, kwargs = LARGE[op]()
    for name in inputs:
        spoilt = {n: (x.cfloat() if x.is_complex() else x.float()) for n, x in inputs.items()}
        spoilt[name] = spoilt[name].clone()
        spoilt[name].view(-1)[0] = math.nan
        with emulated():
            found = module(op, "cuda").run(**spoilt, **kwargs)
        wanted = module(op, "reference").run(**spoilt, **kwargs)
        found, wanted = (x if isinstance(x, tuple) else (x,) for x in (found, wanted))
        for x, y in zip(found, wanted, strict=True):
            # a power of 0 of a NaN is 1 there, NaN here
            assert not (y.isnan() & ~x.isnan()).any() and not x.isnan().all(), name


def test_emulator_refuses_a_barrier_that_not_all_reach(tmp_path: Path) -> None:
    source = tmp_path / "diverging.cu"
    source.write_text(
        '#include "device.cuh"\n'
        "__global__ void diverging(float* x) { if (threadIdx.x < 7) __syncthreads(); x[0] = 1; }\n"
        'extern "C" int run(float* x, void* s) { return launch(diverging, dim3(1), 32, s, x); }\n'
    )
    from kernels import cuda_tools

    with emulated(), pytest.raises(RuntimeError, match="run failed to launch"):
        cuda_tools.launch(source, "run", torch.zeros(1))
