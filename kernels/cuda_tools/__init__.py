"""What every CUDA backend shares: where it runs, how its source becomes a library, how to launch.

Sources are plain CUDA C++ (``kernels/<op>/<op>.cu`` and the header ``device.cuh`` here), built by
nvcc on first use for the GPU at hand, kept in the user's cache folder, and called through ctypes.
No header of torch is needed, so a build takes seconds.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

HEADERS = Path(__file__).parent
FLAGS = ("-O2", "-std=c++17", "-lineinfo", "-I", str(HEADERS))

# numbers of element types, as in device.cuh
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def nvcc() -> str | None:
    """CUDA's compiler: on the path, under ``CUDA_HOME``, or where it installs itself."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [None, *(os.path.join(home, "bin") for home in homes if home)]
    return next(filter(None, (shutil.which("nvcc", path=place) for place in places)), None)


def available() -> str | None:
    """Why no CUDA kernel of ours runs here, or None."""
    missing = []
    if not torch.cuda.is_available() or torch.version.cuda is None:
        missing.append("a CUDA GPU")
    if nvcc() is None:
        missing.append("nvcc, CUDA's compiler (on the path or under CUDA_HOME)")
    return f"it needs {' and '.join(missing)}" if missing else None


def supports_device(x: torch.Tensor) -> str | None:
    """Why a tensor's device or dtype does not suit, or None."""
    if x.device.type != "cuda":
        return f"its tensors must be on a GPU, got {x.device}"
    if x.dtype in (torch.float64, torch.complex128):
        return f"it computes in fp32, got {x.dtype}"
    return None


def dense(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as kernels read it: of this dtype, contiguous, no lazy conjugate or sign."""
    return x.to(dtype).resolve_conj().resolve_neg().contiguous()


def launch(source: Path, name: str, *arguments: torch.Tensor | int) -> None:
    """Calls a launcher of a source on the current stream of its tensors' device.

    Args:
        source: the ``.cu`` file.
        name: the launcher.
        arguments: as it takes them, the stream at the end left out; tensors dense, on one device.

    Raises:
        RuntimeError: nvcc or the launch fails.
    """
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    device = tensors[0].device
    assert all(x.is_contiguous() and not x.is_conj() and x.device == device for x in tensors)
    function = getattr(library(source, device), name)
    passed = [
        ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else ctypes.c_int(x)
        for x in arguments
    ]
    with on(device) as stream:
        error = function(*passed, ctypes.c_void_p(stream))
    if error:
        raise RuntimeError(f"{name} failed to launch: CUDA error {error}")


@contextmanager
def on(device: torch.device) -> Iterator[int]:
    """Inside, the device is the current one; gives the handle of its current stream."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def library(source: Path, device: torch.device) -> ctypes.CDLL:
    """The source's library for this device."""
    major, minor = torch.cuda.get_device_capability(device)
    return _loaded(source, f"sm_{major}{minor}")


@functools.cache
def _loaded(source: Path, target: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(build(source, target)))


def build(source: Path, target: str) -> Path:
    """The source's library for ``sm_..``: from the cache folder, else compiled into it.

    Raises:
        RuntimeError: nvcc fails; its message follows.
    """
    compiler = nvcc()
    assert compiler is not None, "available() says so"
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(b"\0".join([version, target.encode(), *map(str.encode, FLAGS)]))
    for file in (source, *sorted(HEADERS.glob("*.cuh"))):
        digest.update(file.read_bytes())
    built = cache_folder() / f"{source.stem}-{target}-{digest.hexdigest()[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            made = Path(folder) / built.name
            options = ["-shared", "-Xcompiler", "-fPIC", f"-arch={target}", "-o", str(made)]
            done = subprocess.run(
                [compiler, *FLAGS, *options, str(source)], capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"nvcc cannot build {source.name}:\n{done.stderr[-4000:]}")
            # another process may have been as fast: the same file either way
            made.replace(built)
    return built


def cache_folder() -> Path:
    """Where built libraries are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lra-bench" / "cuda"
