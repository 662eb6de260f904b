"""Where a number was made: device, driver, versions, precision, threads, commit."""

import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata

from lra.freed_memory import keeps_freed_memory
from lra.resolvers import checkout

LIBRARIES = (
    "torch", "triton", "lightning-fabric", "flash-attn", "xformers", "fla-core", "mamba-ssm",
    "causal-conv1d",
)  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """``versions`` is ``name=version`` pairs; ``git_sha`` ends in ``+`` where files had changed."""

    device: str
    n_threads: int
    n_processes: int
    matmul_precision: str
    versions: str
    git_sha: str


def fingerprint(device_type: str, *, n_processes: int = 1) -> Fingerprint:
    """The fingerprint of this process computing on ``cpu`` or ``cuda``."""
    import torch

    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device_type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
        name = torch.cuda.get_device_name()
    else:
        if keeps_freed_memory():
            versions["freed_memory"] = "kept"
        name = f"{cpu_name()} {os.cpu_count()} cores"
    return Fingerprint(
        device=name,
        n_threads=torch.get_num_threads(),
        n_processes=n_processes,
        matmul_precision=torch.get_float32_matmul_precision(),
        versions=" ".join(f"{name}={version}" for name, version in versions.items()),
        git_sha=git_sha(),
    )


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.lru_cache(maxsize=1)
def git_sha() -> str:
    """The checkout's commit, with ``+`` where tracked files differ from it; empty without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=checkout(), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        sha = git("rev-parse", "--short=12", "HEAD")
        # results are what the code makes, not what makes them
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return sha + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
