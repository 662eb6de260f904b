"""One CUDA source for one target: compiled by nvcc, the resources of its kernels read off ptxas."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lra.compile_gate.usage import Usage

ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
DTYPES = {"f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """A kernel of a source: its name, its template's numbers, the dtype of its tensors."""

    kernel: str
    config: str
    dtype: str
    usage: Usage


def compiled(source: Path, target: str) -> list[Entry]:
    """Compiles a source with the flags of its backend.

    Raises:
        RuntimeError: nvcc fails; its message follows.
    """
    from kernels.cuda_tools import FLAGS, nvcc

    with tempfile.TemporaryDirectory() as folder:
        options = ["-cubin", f"-arch={target}", "-Xptxas", "-v", "-o", f"{folder}/kernels.cubin"]
        done = subprocess.run(
            [str(nvcc()), *FLAGS, *options, str(source)], capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"nvcc ends with {done.returncode}")
    return list(entries(done.stderr))


def entries(report: str) -> Iterator[Entry]:
    """The kernels of ptxas's verbose report."""
    for part in report.split("Compiling entry function")[1:]:
        mangled = ENTRY.search(f"Compiling entry function{part}")
        spills, used = SPILLS.search(part), USED.search(part)
        assert mangled and spills and used, f"ptxas says no resources: {part[:200]}"
        usage = Usage(int(used[1]), int(spills[1]), int(spills[2]), int(used[2]) if used[2] else 0)
        yield Entry(*described(mangled[1]), usage)


def described(mangled: str) -> tuple[str, str, str]:
    """Name, configuration and dtype of a kernel: ``_Z4scanI6__halfLi16EEvPKT_`` is scan, 16, half.

    The first type among the template's arguments is that of the tensors; numbers configure.
    """
    found = re.match(r"_Z(\d+)", mangled)
    if found is None:
        return mangled, "plain", "float32"
    name, rest = mangled[found.end() :][: int(found[1])], mangled[found.end() + int(found[1]) :]
    template = re.match(r"I(f|6__half|13__nv_bfloat16)?((?:L\w\d+E)*)E", rest)
    if template is None:
        return name, "plain", "float32"
    numbers = re.findall(r"L\w(\d+)E", template[2])
    return name, "_".join(numbers) or "plain", DTYPES[template[1] or "f"]
