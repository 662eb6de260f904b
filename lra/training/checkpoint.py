"""Checkpoints that survive being killed: written aside and renamed, named by their own digest, the
previous one kept. A torn or corrupt one is skipped with a warning."""

import hashlib
import io
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)
NAME = re.compile(r"step_(\d{9})-([0-9a-f]{16})\.pt")
KEEP = 2


def save(state: dict[str, Any], folder: Path, step: int) -> Path:
    """Writes the state of a run after ``step`` steps and forgets all but the last two, and those of
    later steps: they were refused when the run came back to this one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}-{digest}.pt"
    write_atomically(path, content)
    found = _newest_first(folder)
    earlier = [old for old in found if _step(old) < step]
    for old in set(found) - {path, *earlier[: KEEP - 1]}:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path, map_location: Any = "cpu") -> dict[str, Any] | None:
    """The newest whole checkpoint, or None."""
    for path in _newest_first(folder):
        match = NAME.fullmatch(path.name)
        assert match is not None
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != match[2]:
            log.warning("checkpoint %s is torn or corrupt: going back to the one before", path)
            continue
        # weights_only: a checkpoint is data, never code
        return torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    return None


def clear(folder: Path) -> None:
    """Removes every checkpoint of a finished run, and what a killed writer left."""
    for path in [*folder.glob("step_*.pt"), *folder.glob(".*.part")]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_atomically(path: Path, content: bytes) -> None:
    """The file is there whole, or as it was before."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _step(path: Path) -> int:
    return int(path.name[5:14])


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*.pt") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name, path.stat().st_mtime_ns), reverse=True)
