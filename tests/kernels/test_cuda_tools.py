"""CUDA sources become libraries: found compiler, one build for each source and target, reasons."""

import os
from pathlib import Path

import pytest
import torch

from kernels import cuda_tools
from kernels.dispatch import all_ops
from kernels.errors import Unsupported
from kernels.vandermonde_kernel import vandermonde_kernel

# stands for nvcc: notes its arguments, copies the source to where the library belongs
NVCC = """#!/bin/sh
if [ "$1" = --version ]; then echo "release 1, V1.0"; exit 0; fi
echo "$@" >> "{log}"
for last; do :; done
while [ "$1" != -o ]; do shift; done
grep -q broken "$last" && echo "it is broken" >&2 && exit 1
cp "$last" "$2"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler under CUDA_HOME and an empty cache; the file that it notes its calls in."""
    binary = tmp_path / "cuda" / "bin" / "nvcc"
    binary.parent.mkdir(parents=True)
    log = tmp_path / "log"
    binary.write_text(NVCC.format(log=log))
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return log


def test_builds_once_for_each_source_and_target(compiler: Path, tmp_path: Path) -> None:
    source = tmp_path / "op.cu"
    source.write_text("first")
    built = cuda_tools.build(source, "sm_80")
    assert built.read_text() == "first"
    assert built.is_relative_to(tmp_path / "cache")
    assert "-arch=sm_80" in compiler.read_text() and "fast_math" not in compiler.read_text()
    assert cuda_tools.build(source, "sm_80") == built
    assert len(compiler.read_text().splitlines()) == 1
    assert cuda_tools.build(source, "sm_90") != built
    source.write_text("second")
    assert cuda_tools.build(source, "sm_80").read_text() == "second"
    assert len(compiler.read_text().splitlines()) == 3
    assert len(os.listdir(built.parent)) == 3, "a temporary folder is left"


def test_failed_build_says_what_nvcc_said(compiler: Path, tmp_path: Path) -> None:
    source = tmp_path / "op.cu"
    source.write_text("broken")
    with pytest.raises(RuntimeError, match="nvcc cannot build op.cu:\nit is broken"):
        cuda_tools.build(source, "sm_80")
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda_tools, "nvcc", lambda: "/bin/nvcc")
    assert cuda_tools.available() == "it needs a CUDA GPU"
    monkeypatch.setattr(cuda_tools, "nvcc", lambda: None)
    assert cuda_tools.available() == (
        "it needs a CUDA GPU and nvcc, CUDA's compiler (on the path or under CUDA_HOME)"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert cuda_tools.available() == (
        "it needs nvcc, CUDA's compiler (on the path or under CUDA_HOME)"
    )
    monkeypatch.setattr(cuda_tools, "nvcc", lambda: "/bin/nvcc")
    assert cuda_tools.available() is None


def test_suits() -> None:
    assert cuda_tools.supports_device(torch.zeros(1)) == "its tensors must be on a GPU, got cpu"
    assert cuda_tools.supports_device(torch.zeros(1, device="meta")) is not None


def test_explicit_backend_never_falls_back() -> None:
    c = torch.zeros(3, 4, dtype=torch.cfloat)
    with pytest.raises(Unsupported, match="backend 'cuda' cannot do this: it"):
        vandermonde_kernel(c, c, 8, backend="cuda")


@pytest.mark.parametrize("op", ["selective_scan", "wkv", "vandermonde_kernel", "cauchy_kernel"])
def test_first_choice_on_cuda(op: str) -> None:
    found = all_ops()[op]
    assert found.auto["cuda"][0] == "cuda" and "cuda" in found.backends
    # a reason, not an import error: nothing of CUDA is loaded before the first launch
    reason = found.why_not_here("cuda")
    assert reason is None or reason.startswith("it needs")
