"""Built data on disk: made once, whole or not at all, and read without loading it.

::

    <root>/<task>/<digest of the key>.lock       held by the process that builds
    <root>/<task>/<digest of the key>/
        train-00000.arrow ...                    Arrow streams, complete as soon as they have a name
        manifest.json                            written last: without it the folder is not data
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lra.data.writer import Writer, writes
from lra.errors import UserError

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

FORMAT = 1  # goes up whenever a store is laid out otherwise
MANIFEST = "manifest.json"


def ensure(
    root: Path,
    task: str,
    key: Mapping[str, Any],
    build: Callable[[Writer], Mapping[str, Any]],
    *,
    resumable: bool = False,
) -> Path:
    """The folder of the data that ``key`` names, built if it is not there.

    Args:
        root: folder of all built data.
        task: name of the task.
        key: all that decides the data, as JSON can hold it.
        build: appends the rows to a writer and returns what the manifest shall say of them.
        resumable: ``build`` begins each split at row ``writer.rows(split)``, so that the whole
            shards of an unfinished build are kept for the next one; else they are removed.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    folder = root / task / hashlib.sha256(text.encode()).hexdigest()[:16]
    if manifest(folder) is not None:
        return folder
    with writes(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        # another process may have built it meanwhile
        if manifest(folder) is None:
            _build(folder, build, () if resumable else ("*.arrow",))
    return folder


def manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder holds, or None where it was never finished or has been damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files = [file for files in facts["files"].values() for file in files]
        whole = all((folder / file["name"]).stat().st_size == file["bytes"] for file in files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s is damaged: building the data again", folder / MANIFEST)
        return None
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    if not whole:
        log.warning("a file in %s is damaged: building the data again", folder)
        return None
    return facts


def load(folder: Path, split: str) -> "datasets.Dataset":
    """A split of a built store, memory-mapped."""
    import datasets

    facts = manifest(folder)
    assert facts is not None, f"{folder} is not built"
    files = [str(folder / file["name"]) for file in facts["files"][split]]
    return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])


def _build(
    folder: Path, build: Callable[[Writer], Mapping[str, Any]], worthless: tuple[str, ...]
) -> None:
    """Builds; ``worthless`` are patterns of the files that an unfinished build leaves in vain."""
    _clear(folder, worthless)
    writer = Writer(folder)
    try:
        with writes(folder):
            folder.mkdir(exist_ok=True)
        facts = {**build(writer), **writer.close()}
        with writes(folder):
            temporary = folder / f"{MANIFEST}.tmp"
            with temporary.open("w") as file:
                json.dump(facts, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / MANIFEST)
    except BaseException:
        writer.abort()
        _clear(folder, worthless)
        raise


def _clear(folder: Path, worthless: tuple[str, ...]) -> None:
    """Removes what an unfinished or damaged build left in vain, and nothing else."""
    with writes(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        for pattern in ("*.tmp", *worthless):
            for file in folder.glob(pattern):
                file.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock of a killed one."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    with writes(folder):
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            log.info("waiting for another process that builds %s", folder)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
