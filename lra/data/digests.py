"""Short digests of contents: equal contents are found without keeping them."""

import hashlib

import numpy as np

from lra.data.writer import Column


def digest(content: bytes | memoryview) -> bytes:
    """16 bytes that no two contents share."""
    return hashlib.blake2b(content, digest_size=16).digest()


def row_digests(column: Column) -> list[bytes]:
    """The digest of each row of a column of lists, as it is appended to a store."""
    if isinstance(column, np.ndarray):
        return [digest(row.data) for row in np.ascontiguousarray(column)]
    values, lengths = column
    content, size = memoryview(values.tobytes()), values.itemsize
    ends = (np.cumsum(lengths) * size).tolist()
    return [digest(content[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
