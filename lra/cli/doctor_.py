"""The machine, the libraries, and every backend of every op: works, or why not."""

import argparse
import os
import shutil
from importlib import metadata

from rich.table import Table

from lra.cli.main import console

LIBRARIES = ("triton", "flash-attn", "xformers", "fla-core", "mamba-ssm", "causal-conv1d")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> None:
    import torch

    from kernels.dispatch import all_ops
    from lra.resolvers import checkout
    from lra.results.fingerprint import cpu_name

    out = console()
    free_gib = shutil.disk_usage(checkout()).free / 2**30
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    out.print(f"{cpu_name()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB memory")
    out.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        out.print(f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    else:
        out.print("no GPU that torch can use: everything runs on the CPU")
    out.print(f"{free_gib:.0f} GiB free for data and results in {checkout()}")
    for name in LIBRARIES:
        try:
            out.print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            out.print(f"{name}: not installed (extra `gpu`)")
    table = Table("op", "backend", "here")
    for op in all_ops().values():
        for backend in op.backends:
            reason = op.why_not_here(backend)
            table.add_row(op.name, backend, "works" if reason is None else f"no: {reason}")
    out.print(table)
