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
SHARD_BYTES = 2**27  # what an interrupted build loses at most
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# a column of numbers, of equally long lists (a matrix), or of lists: flat values and lengths
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
    """Appends rows to the splits of a store; whole shards that lie there count as appended.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, _Split] = {}

    def rows(self, split: str) -> int:
        """Rows that the split has: where a build that was interrupted goes on."""
        return self._split(split).rows

    def kept(self, split: str, column: str) -> Iterator[Column]:
        """A column of the rows that an earlier build left, some at a time."""
        return self._split(split).kept(column)

    def append(self, split: str, **columns: Column) -> None:
        """Adds rows: by column numbers ``(rows,)``, equally long lists ``(rows, n)``, or flat
        values and ``(rows,)`` lengths."""
        with writes(self._folder):
            self._split(split).append(columns)

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

    def _split(self, name: str) -> "_Split":
        if name not in self._splits:
            with writes(self._folder):
                self._splits[name] = _Split(self._folder, name)
        return self._splits[name]


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
        while self._take(self._temporary.with_suffix("")):
            pass
        self._kept = [folder / file["name"] for file in self.files]

    def kept(self, column: str) -> Iterator[Column]:
        for path in self._kept:
            for batch in _batches(path):
                yield _column(batch.column(column))

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

    def _take(self, path: Path) -> bool:
        """Takes a whole shard of an earlier build as its own; False: there is none."""
        try:
            batches = _batches(path)
        except FileNotFoundError:
            return False
        except pa.ArrowInvalid:
            # damaged afterwards: it will be written again
            return False
        for batch in batches:
            for name, array in zip(batch.schema.names, batch.columns, strict=True):
                self._digest(name, _column(array))
            self.rows += batch.num_rows
        self.files.append({"name": path.name, "bytes": path.stat().st_size})
        return True

    def _array(self, name: str, column: Column) -> pa.Array:
        self._digest(name, column)
        if isinstance(column, np.ndarray):
            if column.ndim == 1:
                return pa.array(column)
            return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        values, lengths = column
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        assert offsets[-1] == len(values), (offsets[-1], len(values))
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    def _digest(self, name: str, column: Column) -> None:
        values, *lengths = column if isinstance(column, tuple) else (column,)
        if name not in self._hashes:
            width = str(values.shape[1]).encode() if values.ndim == 2 else b""
            self._hashes[name] = [hashlib.sha256(width), *(hashlib.sha256() for _ in lengths)]
        self._hashes[name][0].update(np.ascontiguousarray(values).data)
        for part in lengths:
            self._hashes[name][1].update(part.astype(np.int64).data)

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


def _batches(path: Path) -> list[pa.RecordBatch]:
    """Those of a whole shard, not read before they are used."""
    with pa.memory_map(str(path)) as source:
        return list(pa.ipc.open_stream(source))


def _column(array: pa.Array) -> Column:
    """The column that was appended as this array."""
    if isinstance(array, pa.FixedSizeListArray):
        return array.flatten().to_numpy().reshape(-1, array.type.list_size)
    if isinstance(array, pa.ListArray):
        return array.flatten().to_numpy(), np.diff(array.offsets.to_numpy())
    return array.to_numpy()
