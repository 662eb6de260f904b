"""The machine, the libraries, and the backends of every op: which work here, and why not."""

import argparse
import os
import shutil
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING

from rich.table import Column, Table

from lra.cli.main import console
from lra.limits import machine_bytes

if TYPE_CHECKING:
    from kernels.dispatch import Op

LIBRARIES = ("triton", "flash-attn", "xformers", "fla-core", "mamba-ssm", "causal-conv1d")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> None:
    from kernels.dispatch import all_ops

    out = console()
    for line in machine():
        out.print(line)
    table, reasons = backends(all_ops().values())
    out.print(table)
    out.print("* what `auto` tries first here")
    for reason, number in reasons.items():
        out.print(f"[{number}] {reason}")


def machine() -> list[str]:
    """Processor, memory, GPU, room on disk, and the versions of what may be used."""
    import torch

    from lra.resolvers import checkout
    from lra.results.fingerprint import cpu_name

    free_gib = shutil.disk_usage(checkout()).free / 2**30
    memory_gib = machine_bytes() / 2**30
    if torch.cuda.is_available():
        gpu = f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        gpu = "no GPU that torch can use: everything runs on the CPU"
    found, absent = [f"torch {torch.__version__}"], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    lines = [
        f"{cpu_name()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB memory, "
        f"{torch.get_num_threads()} threads",
        gpu,
        f"{free_gib:.0f} GiB free for data and results in {checkout()}",
        ", ".join(found),
    ]
    return [*lines, f"not installed (extra `gpu`): {', '.join(absent)}"] if absent else lines


def backends(ops: "Iterable[Op]") -> tuple[Table, dict[str, int]]:
    """A row for each op, and the distinct reasons by number."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons: dict[str, int] = {}
    table = Table(Column("op", no_wrap=True), "works here", "does not", box=None, pad_edge=False)
    for op in ops:
        works, does_not = [], []
        for backend in op.backends:
            reason = op.why_not_here(backend)
            if reason is None:
                works.append(backend)
            else:
                number = reasons.setdefault(reason, len(reasons) + 1)
                does_not.append(f"{backend}[{number}]")
        first = next((name for name in op.auto.get(device, op.auto["cpu"]) if name in works), None)
        marked = [f"{name}*" if name == first else name for name in works]
        table.add_row(op.name, " ".join(marked), " ".join(does_not))
    return table, reasons
