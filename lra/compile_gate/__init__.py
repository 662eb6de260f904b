"""The compile gate: every GPU kernel compiled, without a GPU, for the GPUs it is meant for.

``compile_all`` makes one row of ``compile.csv`` for each kernel, configuration, dtype and target:
registers, spills, shared memory. A default configuration that does not compile, spills registers
or needs more shared memory than a target has is a fault. It shows that kernels build and fit; it
says nothing about their results.
"""

from lra.compile_gate.gate import committed_path, compile_all, faults, update
from lra.compile_gate.jobs import digest, jobs, keys

__all__ = [
    "committed_path",
    "compile_all",
    "digest",
    "faults",
    "jobs",
    "keys",
    "update",
]
