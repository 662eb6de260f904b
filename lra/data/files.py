"""Files of a source: named without reading them, and by the digest of their contents."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lra.errors import UserError


def stamps(files: Iterable[Path]) -> list[list[str | int]]:
    """Path, size and time of each: a file that changed has another size or time.

    Raises:
        UserError: one cannot be read.
    """
    found: list[list[str | int]] = []
    for path in files:
        try:
            facts = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        found.append([str(path), facts.st_size, facts.st_mtime_ns])
    return found


def read_file(path: Path) -> bytes:
    """The contents.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def sha256(path: Path) -> str:
    """Digest of a file of any size.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
