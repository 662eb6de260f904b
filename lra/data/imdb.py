"""IMDb reviews (Maas et al. 2011): a table as on the hub, or the folders of ``aclImdb``.

``aclImdb/{train,test}/{neg,pos}/<number>_<stars>.txt``; ``train/unsup`` has no labels and is not
read. Label 0 is negative.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.characters import not_utf8
from lra.data.files import read_file, stamps
from lra.data.hub import Offer, Table
from lra.data.splits import ORIGINS, Source
from lra.errors import UserError

OFFER = Offer(
    "IMDb",
    "stanfordnlp/imdb",
    "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
    "`curl -O https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz && "
    "tar xf aclImdb_v1.tar.gz` (FOLDER is aclImdb)",
)
ROWS = {"train": 25_000, "test": 25_000}
CLASSES = ("neg", "pos")
NUMBER = re.compile(r"(\d+)_\d+\.txt")
FILES = 1000  # read at a time


def open_imdb(source: str, revision: str) -> Source:
    """The reviews of a name on the hub at a commit, or of a local copy in either layout.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(source).expanduser()
    for folder in (path, path / "aclImdb"):
        if (folder / "train" / "pos").is_dir():
            return Folders(folder.resolve())
    return Reviews(source, revision)


class Reviews:
    """A table with columns ``text`` and ``label``."""

    def __init__(self, source: str, revision: str):
        columns = {"text": ("string", "large_string"), "label": ("int",)}
        self._table = Table(source, revision, OFFER, "text", columns, len(CLASSES))

    def key(self) -> dict[str, Any]:
        return self._table.key()

    def facts(self) -> dict[str, Any]:
        return self._table.facts()

    def labels(self, origin: str) -> np.ndarray:
        return self._table.labels(origin)

    def rows(self, origin: str, wanted: np.ndarray) -> Iterator[list[bytes]]:
        for first, chunk in self._table.chunks(origin, ["text"]):
            low, high = np.searchsorted(wanted, [first, first + chunk.num_rows])
            if low == high:
                continue
            texts = chunk.column("text").take(wanted[low:high] - first).cast("binary").to_pylist()
            for row, text in zip(wanted[low:high], texts, strict=True):
                if text is None:
                    raise UserError(f"{self._table.where(origin, int(row))}: there is no text")
                if problem := not_utf8(text):
                    raise UserError(f"{self._table.where(origin, int(row))}: {problem}")
            yield texts


class Folders:
    """A file a review, a folder a label."""

    def __init__(self, folder: Path):
        self._folder = folder

    @cached_property
    def _files(self) -> dict[str, list[list[Path]]]:
        return {o: [self._list(o, name) for name in CLASSES] for o in ORIGINS}

    def _list(self, origin: str, name: str) -> list[Path]:
        """The reviews of a folder by their numbers."""
        folder = self._folder / origin / name
        try:
            names = os.listdir(folder)
        except OSError as error:
            raise UserError(
                f"cannot read {folder} ({error.strerror}): {OFFER.how('text')}"
            ) from error
        found = [(int(match[1]), match[0]) for name in names if (match := NUMBER.fullmatch(name))]
        return [folder / name for _, name in sorted(found)]

    def key(self) -> dict[str, Any]:
        files = [file for parts in self._files.values() for part in parts for file in part]
        text = repr(stamps(files)).encode()
        return {"folder": str(self._folder), "files": hashlib.sha256(text).hexdigest()}

    def facts(self) -> dict[str, Any]:
        """One digest of all files of an origin, names included."""
        digests = {}
        for origin in ORIGINS:
            digest = hashlib.sha256()
            for file in (file for part in self._files[origin] for file in part):
                digest.update(f"{file.parent.name}/{file.name}\0".encode())
                digest.update(hashlib.sha256(read_file(file)).digest())
            digests[origin] = digest.hexdigest()
        return {"source": "aclImdb", "source_sha256": digests}

    def labels(self, origin: str) -> np.ndarray:
        sizes = [len(part) for part in self._files[origin]]
        return np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)

    def rows(self, origin: str, wanted: np.ndarray) -> Iterator[list[bytes]]:
        files = [file for part in self._files[origin] for file in part]
        for start in range(0, len(wanted), FILES):
            texts = []
            for row in wanted[start : start + FILES]:
                texts.append(read_file(files[row]))
                if problem := not_utf8(texts[-1]):
                    raise UserError(f"{files[row]}: {problem}")
            yield texts
