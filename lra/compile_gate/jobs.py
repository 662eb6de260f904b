"""What there is to compile: Triton variants and CUDA sources of every op, target by target."""

import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.cuda_tools import nvcc
from lra.compile_gate import cuda_binary, triton_binary
from lra.compile_gate.usage import CUDA_TARGETS, DEFAULT_TARGETS, OTHER_TARGETS, judged
from lra.errors import UserError
from lra.results.csv_io import KEYS
from lra.results.schema import CompileRow
from lra.results.source import ROOT, source_digest

if TYPE_CHECKING:
    from kernels.triton_tools import Variant

KERNELS = ROOT / "kernels"


@dataclass(frozen=True)
class Job:
    """One compilation: a variant of an op by its number, or its CUDA source, for one target."""

    op: str
    backend: str
    target: str
    variant: int | None = None

    def rows(self) -> list[CompileRow]:
        """Compiles; a failure is a row too."""
        if self.backend == "cuda":
            return self._cuda_rows()
        try:
            usage = triton_binary.compiled(variants(self.op)[self.variant or 0], self.target)
        except Exception as error:  # a compiler raises anything
            return [self.failed(error)]
        return [judged(usage, **self.named())]

    def failed(self, error: Exception | str) -> CompileRow:
        """The row of a compilation that ends without a kernel."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
        # a compiler's last line says what is wrong, the ones before show where
        return CompileRow(
            **self.named(), status="error", reason=reason + (lines[-1] if lines else "")[:300]
        )

    def named(self) -> dict[str, Any]:
        """The columns that say what was compiled, by what; of a CUDA source before it is."""
        named: dict[str, Any] = {
            "op": self.op, "backend": self.backend, "target": self.target,
            "versions": versions(self.backend), "source": digest(self.op, self.backend),
        }  # fmt: skip
        if self.backend == "cuda":
            return named | {
                "kernel": self.op, "config": "plain", "default": True, "dtype": "float32",
            }  # fmt: skip
        variant = variants(self.op)[self.variant or 0]
        return named | {
            "kernel": variant.kernel, "config": names(self.op)[self.variant or 0],
            "default": variant.default, "dtype": variant.dtype,
        }  # fmt: skip

    def _cuda_rows(self) -> list[CompileRow]:
        if nvcc() is None:
            reason = "nvcc, CUDA's compiler, is not installed"
            return [CompileRow(**self.named(), status="unsupported", reason=reason)]
        try:
            found = cuda_binary.compiled(source(self.op), self.target)
        except RuntimeError as error:
            return [self.failed(error)]
        same = self.named()
        return [
            judged(e.usage, **same | {"kernel": e.kernel, "config": e.config, "dtype": e.dtype})
            for e in found
        ]


def jobs(ops: Sequence[str] = ()) -> list[Job]:
    """Every compilation, or those of some ops, in a stable order.

    Raises:
        UserError: Triton is not installed, or an op has no GPU kernel.
    """
    if find_spec("triton") is None:
        raise UserError("triton is not installed: pip install triton (it needs no GPU to compile)")
    found = [*_triton_jobs(), *_cuda_jobs()]
    known = sorted({job.op for job in found})
    if unknown := set(ops) - set(known):
        raise UserError(
            f"no GPU kernel of {', '.join(sorted(unknown))}: there are those of {', '.join(known)}"
        )
    return [job for job in found if not ops or job.op in ops]


def keys(found: Sequence[Job]) -> list[tuple[Any, ...]]:
    """The keys of the rows that Triton jobs will make."""
    columns = KEYS[CompileRow]
    return [tuple(job.named()[c] for c in columns) for job in found if job.backend == "triton"]


def source(op: str) -> Path:
    """An op's CUDA source."""
    return KERNELS / op / f"{op}.cu"


@cache
def digest(op: str, backend: str) -> str:
    """Of the files that an op's kernels are written in; those that launch them do not count."""
    if backend == "cuda":
        tools = ROOT / "kernels" / "cuda_tools" / "__init__.py"
        return source_digest([source(op), tools], (_name(source(op)), "kernels/cuda_tools/"))
    written = [path for path in KERNELS.glob("*/triton_*.py") if path.stem != "triton_"]
    return source_digest([KERNELS / op / "triton_kernels.py"], [_name(path) for path in written])


@cache
def variants(op: str) -> "list[Variant]":
    """The op's Triton variants, in the order of their numbers."""
    return list(importlib.import_module(f"kernels.{op}.triton_kernels").variants())


@cache
def names(op: str) -> list[str]:
    """A name for each variant's configuration, unlike all others of its kernel and dtype.

    Where a kernel comes in several forms with one configuration, the constants that differ follow.
    """
    found = variants(op)
    groups: dict[tuple[str, ...], list[Variant]] = {}
    for v in found:
        groups.setdefault((v.kernel, v.dtype, v.config), []).append(v)
    named = []
    for v in found:
        group = groups[v.kernel, v.dtype, v.config]
        differ = [n for n in v.constants if len({repr(g.constants.get(n)) for g in group}) > 1]
        types = _types(v) if len({_types(g) for g in group}) > 1 else ""
        parts = [v.config, *(f"{n}={v.constants[n]}" for n in differ), types]
        named.append(" ".join(part for part in parts if part))
    count = Counter((v.kernel, v.dtype, name) for v, name in zip(found, named, strict=True))
    twice = [name for name, times in count.items() if times > 1]
    assert not twice, f"{op}: variants of one name: {twice}"
    return named


@cache
def versions(backend: str) -> str | None:
    """Of the compiler."""
    if backend == "triton":
        return f"triton={metadata.version('triton')}"
    if nvcc() is None:
        return None
    text = subprocess.run([str(nvcc()), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"V(\d[\d.]*)", text)
    return f"nvcc={found[1]}" if found else None


def _triton_jobs() -> Iterator[Job]:
    for path in sorted(KERNELS.glob("*/triton_kernels.py")):
        op = path.parent.name
        for number, variant in enumerate(variants(op)):
            for target in DEFAULT_TARGETS if variant.default else OTHER_TARGETS:
                yield Job(op, "triton", target, number)


def _cuda_jobs() -> Iterator[Job]:
    for path in sorted(KERNELS.glob("*/*.cu")):
        assert path.stem == path.parent.name, f"{path.name} is not named as its op"
        yield from (Job(path.stem, "cuda", target) for target in CUDA_TARGETS)


def _types(variant: "Variant") -> str:
    return ",".join(kind for kind in variant.signature.values() if kind != "constexpr")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
