"""Streams rows into Arrow files, a bounded number of bytes in memory at a time."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lra.errors import UserError

BATCH_BYTES = 2**25  # a record batch; one batch of training touches few of them
SHARD_BYTES = 2**29
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# a column of numbers, or of lists: flat values and lengths
Column = np.ndarray | tuple[np.ndarray, np.ndarray]


@contextmanager
def writes(folder: Path) -> Iterator[None]:
    """Turns a failure to write into the error that a user can mend."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in FULL else error.strerror or error
        raise UserError(
            f"cannot write {folder}: {reason}; free space there or set another data folder"
        ) from error


class Writer:
    """Appends rows to the splits of a store.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, _Split] = {}

    def append(self, split: str, **columns: Column) -> None:
        """Adds rows: by column numbers ``(rows,)``, or flat values and ``(rows,)`` lengths."""
        if split not in self._splits:
            self._splits[split] = _Split(self._folder, split)
        with writes(self._folder):
            self._splits[split].append(columns)

    def close(self) -> dict[str, Any]:
        """Writes what is left; returns rows, sha256 of the contents and files of each split."""
        with writes(self._folder):
            for split in self._splits.values():
                split.close()
        return {
            "rows": {name: split.rows for name, split in self._splits.items()},
            "sha256": {name: split.digests() for name, split in self._splits.items()},
            "files": {name: split.files for name, split in self._splits.items()},
        }

    def abort(self) -> None:
        """Closes the files, unfinished."""
        for split in self._splits.values():
            split.abort()


class _Split:
    def __init__(self, folder: Path, name: str) -> None:
        self.rows = 0
        self.files: list[dict[str, Any]] = []
        self._folder, self._name = folder, name
        self._hashes: dict[str, list[Any]] = {}
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._sink: pa.NativeFile | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None

    def append(self, columns: dict[str, Column]) -> None:
        arrays = {name: self._array(name, column) for name, column in columns.items()}
        batch = pa.RecordBatch.from_pydict(arrays)
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def digests(self) -> dict[str, str]:
        """By column, of its values and then its lengths: the same however rows were appended."""
        joined = {
            name: b"".join(part.digest() for part in parts) for name, parts in self._hashes.items()
        }
        return {name: hashlib.sha256(digests).hexdigest() for name, digests in joined.items()}

    def close(self) -> None:
        self._flush()
        self._end_shard()

    def abort(self) -> None:
        self._stream = None
        if self._sink is not None:
            self._sink.close()

    def _array(self, name: str, column: Column) -> pa.Array:
        parts = column if isinstance(column, tuple) else (column,)
        hashes = self._hashes.setdefault(name, [hashlib.sha256() for _ in parts])
        values, *lengths = parts
        hashes[0].update(np.ascontiguousarray(values).data)
        if not lengths:
            return pa.array(values)
        hashes[1].update(lengths[0].astype(np.int64).data)
        offsets = np.zeros(len(lengths[0]) + 1, np.int32)
        np.cumsum(lengths[0], out=offsets[1:])
        assert offsets[-1] == len(values), (offsets[-1], len(values))
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._waiting, self._waiting_bytes = [], 0
        if self._stream is None:
            self._sink = pa.OSFile(str(self._temporary), "wb")
            self._stream = pa.ipc.new_stream(self._sink, table.schema)
        self._stream.write_table(table)
        assert self._sink is not None
        if self._sink.tell() >= SHARD_BYTES:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._stream is None or self._sink is None:
            return
        self._stream.close()
        self._sink.close()
        self._stream = self._sink = None
        path = self._temporary.with_suffix("")
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.replace(path)
        self.files.append({"name": path.name, "bytes": path.stat().st_size})

    @property
    def _temporary(self) -> Path:
        return self._folder / f"{self._name}-{len(self.files):05d}.arrow.tmp"
