"""Reads the official ListOps files: a header, then a tree with parentheses, a tab and its value.

``( ( ( [MIN 2 ) 9 ) ] )`` and ``[MIN 2 9 ]`` are one tree: parentheses carry nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.listops_trees import OFFICIAL, OPERATORS, TOKENS, Trees
from lra.data.writer import Writer
from lra.errors import UserError
from lra.progress import progress

FILES = {split: f"basic_{split}.tsv" for split in ("train", "val", "test")}
HEADER = b"Source\tTarget"
LONGEST_LINE = 2**24  # bytes; a longer one is not a text file
ROWS = 1000
LABELS = {str(digit).encode(): digit for digit in range(10)}


def official_key(
    folder: Path, limits: Mapping[str, int], max_length: int, operators: Iterable[str]
) -> dict[str, Any]:
    """Names the files without reading them: a file that changed has another size or time.

    Raises:
        UserError: a file is missing.
    """
    files = []
    for split in limits:
        path = folder / FILES[split]
        try:
            facts = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        files.append([str(path), facts.st_size, facts.st_mtime_ns])
    return {"files": files, **_cuts(limits, max_length, operators)}


def write_official(
    writer: Writer,
    folder: Path,
    limits: Mapping[str, int],
    max_length: int,
    operators: Iterable[str],
) -> dict[str, Any]:
    """Writes the first ``limits`` trees of each file; returns the facts of the manifest."""
    digests, rows = {}, {}
    for split, limit in limits.items():
        digests[FILES[split]], lines = _scan(folder / FILES[split])
        rows[split] = min(limit, lines)
    done = 0
    with progress("reading ListOps", sum(rows.values()), unit="trees") as shown:
        for split, limit in limits.items():
            for trees in read_trees(folder / FILES[split], limit, max_length, operators):
                writer.append(split, x=(trees.tokens, trees.lengths), y=trees.labels)
                done += trees.labels.size
                shown.update(done)
    # no path and no time: the same files elsewhere are the same data
    cuts = _cuts(limits, max_length, operators)
    return {"source": "official files", "source_sha256": digests, **cuts}


def _cuts(limits: Mapping[str, int], max_length: int, operators: Iterable[str]) -> dict[str, Any]:
    extra = sorted(set(operators) - set(OFFICIAL))
    return {"asked": dict(limits), "max_length": max_length, "extra_operators": extra}


def _scan(path: Path) -> tuple[str, int]:
    """sha256 of a file, and about how many rows it has."""
    digest, lines = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
                lines += block.count(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest(), max(lines - 1, 0)


def read_trees(
    path: Path, limit: int, max_length: int, operators: Iterable[str]
) -> Iterator[Trees]:
    """The first ``limit`` trees of a file, each cut to ``max_length`` tokens, in chunks.

    Args:
        path: one of ``FILES``.
        limit: most rows to read.
        max_length: tokens kept of a tree; the official pipeline cuts too.
        operators: those allowed beside the official four.

    Raises:
        UserError: the file cannot be read or a line is wrong; names file and line.
    """
    known = {*OFFICIAL, *operators}
    unknown = {f"[{name}" for name in OPERATORS if name not in known}
    ids = {text.encode(): i for text, i in TOKENS.items() if text not in unknown}
    chunk: list[tuple[bytes, int]] = []
    rows = 0
    for number, line in _lines(path):
        if rows == limit:
            break
        try:
            chunk.append(_row(line, ids, max_length))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        rows += 1
        if len(chunk) == ROWS:
            yield _trees(chunk)
            chunk = []
    if not rows:
        raise UserError(f"{path}: no rows after the header")
    if chunk:
        yield _trees(chunk)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines after the header, without line ends."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(f"{path}, line {number}: too long, this is no ListOps file")
                line = line.rstrip(b"\r\n")
                if number > 1:
                    yield number, line
                elif line != HEADER:
                    raise UserError(f"{path}, line 1: the header must be 'Source<tab>Target'")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not number:
        raise UserError(f"{path}: the file is empty")


def _row(line: bytes, ids: dict[bytes, int], max_length: int) -> tuple[bytes, int]:
    """Token ids and value of a line; a ValueError says what is wrong with it."""
    columns = line.split(b"\t")
    if len(columns) != 2:
        _decode(line)
        raise ValueError(f"{len(columns)} columns, expected 2 (a tree, a tab, its value)")
    source, label = columns
    if label not in LABELS:
        raise ValueError(f"the value must be a digit, not '{_decode(label)[:20]}'")
    if source.count(b"[") != source.count(b"]"):
        _decode(source)
        raise ValueError("brackets do not match: the tree is incomplete")
    tokens = source.translate(None, b"()").split()
    if not tokens:
        raise ValueError("the tree is empty")
    try:
        return bytes(map(ids.__getitem__, tokens))[:max_length], LABELS[label]
    except KeyError as error:
        raise ValueError(f"unknown token '{_decode(error.args[0])[:20]}'") from None


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def _trees(rows: list[tuple[bytes, int]]) -> Trees:
    tokens = np.frombuffer(b"".join(ids for ids, _ in rows), np.uint8)
    lengths = np.array([len(ids) for ids, _ in rows], np.int32)
    return Trees(tokens, lengths, np.array([label for _, label in rows], np.uint8))
