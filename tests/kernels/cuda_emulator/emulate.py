"""The CUDA backends on the CPU: their own Python, their own source built by g++, no GPU."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from kernels import cuda_tools

HERE = Path(__file__).parent
ASCENDING, DESCENDING = False, True


@functools.cache
def built(source: Path) -> ctypes.CDLL:
    """The source's library for the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = Path(tempfile.mkdtemp())
    library = folder / f"{source.stem}.so"
    command = [
        "g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-fno-gnu-unique", "-x", "c++",
        "-I", str(cuda_tools.HEADERS), "-include", str(HERE / "emulator.h"),
        "-o", str(library), str(source),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded


def barriers(source: Path) -> list[int]:
    """Lines of a source on which its threads wait for each other."""
    lines = source.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if "__syncthreads()" in line]


@contextmanager
def emulated(*, order: bool = ASCENDING, without_line: int = 0) -> Iterator[None]:
    """Inside, CUDA backends run on CPU tensors.

    Args:
        order: the order in which the threads of a block run.
        without_line: a line of the source whose barrier is left out; 0 leaves all in.
    """

    def library(source: Path, device: torch.device) -> ctypes.CDLL:
        found = built(source)
        found.emulator_order(int(order))
        found.emulator_skip(without_line)
        return found

    @contextmanager
    def on(device: torch.device) -> Iterator[int]:
        yield 0

    with patch.object(cuda_tools, "library", library), patch.object(cuda_tools, "on", on):
        yield
