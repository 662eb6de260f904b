"""A toy op whose backends do all that can go wrong when ``task=kernels`` times them."""

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import kernels
from lra.config import Limits
from lra.kernel_bench.config import KernelConfig
from lra.kernel_bench.runner import Outcome
from lra.measurement.roofline import Roofline
from lra.results.schema import KernelRow

RIGHT = "def run(x): return x.cumsum(1)"
BACKENDS = {
    "reference": RIGHT,
    "eager": RIGHT,
    "wrong": "def run(x): return 1.01 * x.cumsum(1)",
    "backward": """
        import torch
        class F(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.cumsum(1)
            @staticmethod
            def backward(ctx, g): return 2 * g.flip(1).cumsum(1).flip(1)
        def run(x): return F.apply(x)
        """,
    "caching": """
        kept = []
        def run(x):
            y = x.cumsum(1)
            kept.append(y) if not kept else None
            return y if y.requires_grad else kept[0].detach()
        """,
    "refusing": f"def supports(x): return 'no [even] N' if x.shape[1] % 2 == 0 else None\n{RIGHT}",
    "needy": f"def available(): return 'it needs a GPU'\n{RIGHT}",
    "hungry": """
        def run(x):
            if x.shape[1] > 4: raise MemoryError('too large')
            return x.cumsum(1)
        """,
    "raising": "def run(x): raise KeyError('lost')",
    "slow": "import time\ndef run(x): time.sleep(0.12); return x.cumsum(1)",
    "late": """
        calls = [0]
        def run(x):
            calls[0] += 1
            if calls[0] > 6: raise RuntimeError('worn out')
            return x.cumsum(1)
        """,
}
INIT = """
    from kernels.dispatch import Op
    OP = Op("toy", backends={backends}, auto={{"cpu": ("refusing", "eager")}})
    def toy(x, *, backend="auto"): return OP(backend, x)
    """
MAKER = """
    from lra.kernel_bench.draw import Draw, Inputs
    def toy(draw: Draw, *, causal: bool = True) -> Inputs:
        case = draw.case
        return Inputs(tensors={"x": draw.normal(case.batch, case.length)}, causal=causal)
    """


def write(folder: Path) -> None:
    """The op's package and the module that makes its inputs."""
    package = folder / "kernels" / "toy"
    package.mkdir(parents=True, exist_ok=True)
    init = textwrap.dedent(INIT).format(backends=(*BACKENDS, "compile"))
    (package / "__init__.py").write_text(init)
    for name, code in BACKENDS.items():
        (package / f"{name}.py").write_text(textwrap.dedent(code))
    (folder / "toy_inputs.py").write_text(textwrap.dedent(MAKER))


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., KernelConfig]]:
    """Until the end of a test, a function that makes the op and configures its timing."""

    def make(*backends: str, **changes) -> KernelConfig:
        write(folder)
        config = KernelConfig(
            op="toy", target="toy_inputs.toy", variants=[{"causal": True}], batch=2, heads=1,
            head_dim=1, lengths={"cpu": [4, 8]}, dtypes={"cpu": ["float32"]},
            passes=["forward", "forward_backward"], reference_longest=1024, budget_s=0.01,
            min_samples=5, max_samples=10, limit_s=0.1, backend=list(backends), device="cpu",
            rerun=False, limits=Limits(), results=folder / "results",
        )  # fmt: skip
        return replace(config, **changes)

    monkeypatch.setattr(Roofline, "tflop_per_s", lambda self, dtype: 1e-3)
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(folder / "kernels")])
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield make
    for name in [name for name in sys.modules if name.startswith(("kernels.toy", "toy_inputs"))]:
        del sys.modules[name]
    vars(kernels).pop("toy", None)


def ends(outcome: Outcome) -> dict[tuple[str, int, str], KernelRow]:
    """The rows of a run by backend, length and pass."""
    return {
        (row.backend, row.length, row.pass_): row
        for _, finished in outcome.cases
        for row in finished.rows
    }
