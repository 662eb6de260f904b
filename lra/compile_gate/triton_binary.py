"""One Triton kernel for one target: compiled, and its resources read off the binary."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lra.compile_gate.usage import Usage

if TYPE_CHECKING:
    from kernels.triton_tools import Variant

# local memory instructions of a cubin, with their width in bits
LOCAL = re.compile(r"\b(STL|LDL)((?:\.\w+)*)\s")
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def compiled(variant: "Variant", target: str) -> Usage:
    """Compiles a variant as for tensors that lie at multiples of 16 bytes, as torch's do.

    Raises:
        Exception: whatever Triton or its back end says against it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.signature)
    pointers = [i for i, name in enumerate(names) if variant.signature[name].startswith("*")]
    source = ASTSource(
        variant.fn,
        signature=dict(variant.signature),
        constexprs=dict(variant.constants),
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    if target.startswith("sm_"):
        gpu = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    else:
        gpu = GPUTarget("hip", target, 64)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    kernel = triton.compile(source, target=gpu, options=options)
    shared = int(kernel.metadata.shared)
    if gpu.backend == "hip":
        return amd_usage(kernel.asm["amdgcn"], shared)
    return nvidia_usage(kernel.asm["cubin"], shared)


def nvidia_usage(cubin: bytes, shared_bytes: int) -> Usage:
    """Registers by cuobjdump; spills are loads and stores of local memory, where there is any."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _tool("cuobjdump", "-res-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
        assert found is not None, f"cuobjdump says no resources: {text[:200]}"
        registers, stack, _, local = map(int, found.groups())
        sass = _tool("nvdisasm", "-c", file.name) if stack or local else ""
    spilled = {"STL": 0, "LDL": 0}
    for name, modifiers in LOCAL.findall(sass):
        widths = [WIDTHS[part] for part in modifiers.split(".") if part in WIDTHS]
        spilled[name] += widths[0] if widths else 4
    return Usage(registers, spilled["STL"], spilled["LDL"], shared_bytes)


def amd_usage(assembly: str, shared_bytes: int) -> Usage:
    """From the metadata at the end of the assembly; a spilled register is 4 bytes a lane.

    Scalar registers spill into lanes of vector registers, which costs no memory: not counted.
    """
    found: Mapping[str, int] = {
        name: int(value)
        for name, value in re.findall(r"^\s*\.(\w+_count):\s+(\d+)", assembly, re.M)
    }
    return Usage(found["vgpr_count"], 4 * found["vgpr_spill_count"], None, shared_bytes)


def _tool(name: str, *arguments: str) -> str:
    """Output of a tool that comes with Triton."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    done: Any = subprocess.run(
        [str(folder / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
