"""Triton kernels: emulated, in processes of their own, and what all of their backends share."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from kernels import triton_tools
from kernels.dispatch import all_ops

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = Path(__file__).parent / "interpreted"
CHECKS = sorted(INTERPRETED.glob("check_*.py"))
# each takes seconds to start
PROCESSES = 4
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@needs_triton
@pytest.mark.parametrize("process", range(PROCESSES))
def test_interpreted(process: int) -> None:
    # triton decides at its first import whether it emulates
    paths = map(str, CHECKS[process::PROCESSES])
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *paths],
        cwd=ROOT, env={**inherited, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_every_triton_backend_is_emulated_and_compiled() -> None:
    for name, op in all_ops().items():
        if "triton" in op.backends:
            assert (INTERPRETED / f"check_{name}.py").exists(), name
            assert (ROOT / "kernels" / name / "triton_kernels.py").exists(), name


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton_tools, "find_spec", lambda name: None)
    assert triton_tools.available() == "triton is not installed (extra `gpu`)"
    monkeypatch.setattr(triton_tools, "find_spec", lambda name: name)
    assert triton_tools.available() == "it needs a GPU (TRITON_INTERPRET=1 emulates one, slowly)"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_tools.available() is None
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert triton_tools.available() is None


def test_says_what_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton_tools.supports_device(torch.zeros(1)) == "its tensors must be on a GPU"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_tools.supports_device(torch.zeros(1)) is None
    for dtype in (torch.float64, torch.complex128):
        assert triton_tools.supports_device(torch.zeros(1, dtype=dtype)) == "it has no fp64"


@needs_triton
def test_on_a_gpu_triton_chooses_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    made = []

    def autotune(configs, key):
        made.append((configs, key))
        return lambda fn: {(1,): f"{fn} on a grid"}

    monkeypatch.setattr(triton, "autotune", autotune)
    tuned = triton_tools.Tuned("kernel", ("first", "second"), ("n",))
    # one tuner for all launches: it remembers what it measured
    assert [tuned[(1,)], tuned[(1,)]] == ["kernel on a grid"] * 2
    assert made == [(["first", "second"], ["n"])]
