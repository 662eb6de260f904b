"""The selective scan: against the loop, at the edges of its decay, in segments, in bounds."""

import inspect
import sys
import types
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import silu, softplus

from kernels.diagonal_scan import diagonal_scan
from kernels.selective_scan import eager, mamba_ssm_, selective_scan
from kernels.tolerance import check, poisoned
from lra.measurement.memory import predict_memory_mib

B, D, S = 2, 6, 3


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, groups=None, *, everything=True):
    """Softplus steps between about 0.1 and 2, decays from nearly 0 to nearly 1."""
    lead = (B,) if groups is None else (B, groups)
    tensors = {
        "u": drawn(B, D, n, seed=0),
        "delta": drawn(B, D, n, seed=1),
        "a": -drawn(D, S, seed=2).exp(),
        "b": drawn(*lead, S, n, seed=3),
        "c": drawn(*lead, S, n, seed=4),
    }
    tensors["a"].view(-1)[0], tensors["a"].view(-1)[1] = -1e-6, -60.0
    if everything:
        tensors |= {
            "d": drawn(D, seed=5),
            "z": drawn(B, D, n, seed=6),
            "delta_bias": drawn(D, seed=7),
            "initial_state": drawn(B, D, S, seed=8),
        }
    return tensors


def results(backend, tensors, **kwargs):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    ends = selective_scan(**leaves, delta_softplus=True, backend=backend, **kwargs)
    grads = [drawn(*x.shape, seed=9, dtype=x.dtype) for x in ends]
    return [*ends, *torch.autograd.grad(ends, list(leaves.values()), grads)]


@pytest.fixture(params=[False, True], ids=["one_slab", "slabs"])
def slabs(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(eager, "STATES", 1)
        monkeypatch.setattr(eager, "SHORTEST", 40)


@pytest.mark.parametrize("everything", [False, True], ids=["plain", "everything"])
@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_eager_is_the_loop(n, groups, everything, slabs):
    tensors = arguments(n, groups, everything=everything)
    expected = results("reference", tensors)
    with poisoned():
        actual = results("eager", tensors)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11 * y.abs().max().item())


def test_reference_is_the_sum_of_products():
    """y_t = sum_s C_t . exp(A sum_{s<i<=t} delta_i) delta_s B_s u_s, written out."""
    n = 7
    u, delta, a, b, c, d, z, bias, initial = arguments(n).values()
    y, state = selective_scan(
        u, delta, a, b, c, d, z=z, delta_bias=bias, delta_softplus=True,
        initial_state=initial, backend="reference",
    )  # fmt: skip
    step = softplus(delta + bias[:, None])
    for t in range(n):
        h = (a * step[:, :, : t + 1].sum(-1)[..., None]).exp() * initial
        for s in range(t + 1):
            kept = (a * step[:, :, s + 1 : t + 1].sum(-1)[..., None]).exp()
            h = h + kept * (step * u)[:, :, s, None] * b[:, None, :, s]
        out = ((h * c[:, None, :, t]).sum(-1) + d * u[:, :, t]) * silu(z[:, :, t])
        torch.testing.assert_close(y[:, :, t], out)
    torch.testing.assert_close(state, h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_close_to_the_truth(dtype, slabs):
    def run(backend):
        return lambda **x: selective_scan(**x, delta_softplus=True, backend=backend)

    check(run("eager"), run("reference"), arguments(257, 2), dtype=dtype)


@pytest.mark.parametrize("groups", [None, 2])
def test_gradcheck(groups):
    tensors = arguments(5, groups)
    leaves = [x.clone().requires_grad_() for x in tensors.values()]

    def function(*values):
        named = dict(zip(tensors, values, strict=True))
        return selective_scan(**named, delta_softplus=True, backend="eager")

    assert torch.autograd.gradcheck(function, leaves)


def test_constant_steps_make_a_diagonal_recurrence():
    u, _, a, b, c = arguments(50, everything=False).values()
    delta = torch.full_like(u, 0.3)
    b, c = b[..., :1].expand_as(b), c[..., :1].expand_as(c)
    y, _ = selective_scan(u, delta, a, b, c, backend="eager")
    # (B, N, D S)
    driven = torch.einsum("bdn,bs->bnds", 0.3 * u, b[..., 0]).flatten(2)
    h = diagonal_scan((0.3 * a).exp().flatten(), driven, backend="reference")
    expected = torch.einsum("bnds,bs->bdn", h.unflatten(2, (D, S)), c[..., 0])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("softplus_first", [False, True])
def test_a_step_of_zero_hides_its_token(softplus_first):
    n, real = 90, 50
    tensors = arguments(n, everything=False)
    tensors["delta"] = tensors["delta"].abs()
    tensors["delta"][..., real:] = -torch.inf if softplus_first else 0
    short = {name: x[..., :real] if x.shape[-1] == n else x for name, x in tensors.items()}
    ends = [
        selective_scan(**x, delta_softplus=softplus_first, backend="eager")
        for x in (tensors, short)
    ]
    torch.testing.assert_close(ends[0][0][..., :real], ends[1][0])
    torch.testing.assert_close(ends[0][1], ends[1][1])
    if softplus_first:
        assert all(x.isfinite().all() for x in results("eager", tensors))


def test_segments_chain(slabs):
    tensors = arguments(100)
    whole = selective_scan(**tensors, delta_softplus=True, backend="eager")
    state, outputs = tensors.pop("initial_state"), []
    for part in (slice(0, 37), slice(37, 38), slice(38, None)):
        cut = {name: x[..., part] if x.shape[-1] == 100 else x for name, x in tensors.items()}
        y, state = selective_scan(**cut, initial_state=state, delta_softplus=True, backend="eager")
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=-1), whole[0])
    torch.testing.assert_close(state, whole[1])


def test_extreme_decays_over_a_long_sequence(slabs):
    """Forgets at once (exp underflows), or never."""
    n = 3000
    tensors = {name: x.float() for name, x in arguments(n, everything=False).items()}
    tensors["delta"] = tensors["delta"].abs()
    tensors["a"] = torch.tensor([[-1e4, -1e-9, 0.0]]).expand(D, S)
    wide = {name: x.double() for name, x in tensors.items()}
    y, _ = selective_scan(**tensors, backend="eager")
    expected, _ = selective_scan(**wide, backend="reference")
    torch.testing.assert_close(
        y.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item()
    )


def test_inputs_stay_as_they_were_and_need_not_be_contiguous():
    tensors = arguments(70)
    strided = {name: x.mT.contiguous().mT if x.ndim > 1 else x for name, x in tensors.items()}
    for x, y in zip(results("eager", strided), results("eager", tensors), strict=True):
        torch.testing.assert_close(x, y)
    for name, x in strided.items():
        assert torch.equal(x, tensors[name])


def test_autocast_changes_nothing():
    tensors = {name: x.float() for name, x in arguments(63).items()}
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", tensors))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


def test_nan_shows(slabs):
    tensors = arguments(70)
    tensors["u"][0, 1, 20] = torch.nan
    y, state = selective_scan(**tensors, delta_softplus=True, backend="eager")
    assert y[0, 1, 20:].isnan().all() and state[0, 1].isnan().all()
    assert y[0, 1, :20].isfinite().all() and y[1].isfinite().all() and y[0, 0].isfinite().all()


def test_peak_memory_is_far_below_that_of_all_states():
    batch, channels, states, n = 1, 128, 64, 4096

    def build(mode):
        u, delta = (torch.rand(batch, channels, n, requires_grad=True) for _ in "ud")
        b, c = (torch.rand(batch, states, n, requires_grad=True) for _ in "bc")
        a = -torch.rand(channels, states)
        return (
            lambda: selective_scan(u, delta, a, b, c, backend="eager")[0].sum().backward(),
            [u, delta, a, b, c],
        )

    prediction = predict_memory_mib(build, device="cpu")
    assert prediction.reason is None
    assert prediction.mib < batch * channels * states * n * 4 / 2**20 / 3


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"u": torch.zeros(2, 8)}, r"u must be \(B, D, N\)"),
        ({"u": torch.zeros(2, D, 0)}, r"u must be .*\(2, 6, 0\)"),
        ({"delta": torch.zeros(2, D, 7)}, r"delta must be \(2, 6, 8\), got \(2, 6, 7\)"),
        ({"a": torch.zeros(5, S)}, r"a must be \(D, S\) with D = 6, got \(5, 3\)"),
        ({"b": torch.zeros(2, 4, 8)}, r"b must be \(B, S, N\) = \(2, 3, 8\) or"),
        ({"c": torch.zeros(2, 4, S, 8)}, "with G dividing D = 6, got"),
        ({"c": torch.zeros(2, 2, S, 8)}, r"b is \(2, 3, 8\), c is \(2, 2, 3, 8\)"),
        ({"d": torch.zeros(D, 1)}, r"d must be \(6,\), got \(6, 1\)"),
        ({"z": torch.zeros(2, D, 1)}, "z must be"),
        ({"delta_bias": torch.zeros(1)}, "delta_bias must be"),
        ({"initial_state": torch.zeros(2, S, D)}, r"initial_state must be \(2, 6, 3\)"),
        ({"a": torch.zeros(D, S, dtype=torch.cfloat)}, "a must be real, got torch.complex64"),
        ({"z": torch.zeros(2, D, 8, device="meta")}, "z is on meta, u on cpu"),
        ({"backend": "eagre"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    zeros = {"u": torch.zeros(2, D, 8), "delta": torch.zeros(2, D, 8), "a": torch.zeros(D, S)}
    zeros |= {"b": torch.zeros(2, S, 8), "c": torch.zeros(2, S, 8)}
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(selective_scan)(**zeros | changes)


@pytest.fixture
def mamba_ssm(monkeypatch):
    """A stand-in with the library's signature and manners, on the CPU."""
    calls = []

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
        return_last_state=False,
    ):  # fmt: skip
        calls.append({"u": u, "delta": delta, "A": A, "B": B, "D": D, "delta_bias": delta_bias})
        y, state = selective_scan(
            u, delta, A, B, C, D, z=z, delta_bias=delta_bias, delta_softplus=delta_softplus,
            backend="reference",
        )  # fmt: skip
        return (y, state.detach()) if return_last_state else y

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    return calls


@pytest.mark.parametrize("groups", [None, 2])
def test_mamba_ssm_gets_its_layout_and_dtypes(mamba_ssm, groups):
    tensors = {name: x.float() for name, x in arguments(20, groups).items()}
    del tensors["initial_state"]
    tensors |= {name: tensors[name].bfloat16() for name in ("u", "delta", "b", "c", "z")}
    given = {
        name: x if x.ndim != 3 or name not in "bc" else x[:, None] for name, x in tensors.items()
    }
    y, state = mamba_ssm_.run(**given, delta_softplus=True)
    (call,) = mamba_ssm
    assert call["delta"].dtype == call["B"].dtype == torch.bfloat16
    assert call["A"].dtype == call["D"].dtype == call["delta_bias"].dtype == torch.float32
    expected = selective_scan(**tensors, delta_softplus=True, backend="eager")
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    torch.testing.assert_close(y, expected[0], rtol=3e-2, atol=1e-1)


def test_mamba_ssm_refuses_a_gradient_of_the_state(mamba_ssm):
    tensors = {name: x.float().requires_grad_() for name, x in arguments(20, 1).items()}
    del tensors["initial_state"]
    y, state = mamba_ssm_.run(**tensors)
    assert torch.autograd.grad(y.sum(), tensors["u"], retain_graph=True)[0].any()
    with pytest.raises(ValueError, match="no gradient through the final state"):
        torch.autograd.grad(y.sum() + state.sum(), tensors["u"])


def test_mamba_ssm_says_why_not():
    tensors = arguments(5, 1)
    assert "on a GPU" in mamba_ssm_.supports(**tensors, delta_softplus=True)
    names = ("u", "delta", "a", "b", "c")
    fake = {
        name: types.SimpleNamespace(is_cuda=True, dtype=torch.float32, shape=(1, 300))
        for name in names
    }
    plain = {"delta_softplus": False, "initial_state": None}
    # past the annotations: stand-ins are no tensors
    why = inspect.unwrap(mamba_ssm_.supports)
    assert "at most 256 states" in why(*fake.values(), **plain)
    fake["a"].shape = (1, 16)
    assert why(*fake.values(), **plain) is None
    assert "no initial_state" in why(*fake.values(), **plain | {"initial_state": fake["u"]})
    fake["b"].dtype = torch.float64
    assert "no fp64" in why(*fake.values(), **plain)
    with pytest.raises(ValueError, match="backend 'mamba_ssm' cannot do this: "):
        selective_scan(**tensors, backend="mamba_ssm")
