"""Reads the official ListOps files: a header, then a tree with parentheses, a tab and its value.

``( ( ( [MIN 2 ) 9 ) ] )`` and ``[MIN 2 9 ]`` are one tree: parentheses carry nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.digests import row_digests
from lra.data.files import stamps
from lra.data.listops_set import append
from lra.data.listops_trees import OFFICIAL, OPERATORS, TOKENS, Trees
from lra.data.release import how
from lra.data.splits import duplicates
from lra.data.writer import Writer
from lra.errors import UserError
from lra.progress import progress

READER = 2  # goes up whenever the same files give another store or manifest
ROWS = {"train": 96_000, "val": 2_000, "test": 2_000}  # of LRA
FILES = {split: f"basic_{split}.tsv" for split in ("train", "val", "test")}
HEADER = b"Source\tTarget"
LONGEST_LINE = 2**24  # bytes; a longer one is not a text file
CHUNK = 1000  # trees
HOW = how("listops", "lra_release/listops-1000") + (
    "; or leave out task.source to have trees drawn by the same rules"
)
LABELS = {str(digit).encode(): digit for digit in range(10)}


def official_key(
    folder: Path, limits: Mapping[str, int], max_length: int, operators: Iterable[str]
) -> dict[str, Any]:
    """Names the files without reading them: a file that changed has another size or time.

    Raises:
        UserError: a file is missing.
    """
    files = [folder / FILES[split] for split in limits]
    for path in files:
        if not path.is_file():
            raise UserError(f"there is no {path}: {HOW}")
    return {"reader": READER, "files": stamps(files), **_cuts(limits, max_length, operators)}


def write_official(
    writer: Writer,
    folder: Path,
    limits: Mapping[str, int],
    max_length: int,
    operators: Iterable[str],
) -> dict[str, Any]:
    """Writes the first ``limits`` trees of each file, from where an interrupted build stopped.

    Returns:
        The facts of the manifest.
    """
    digests, found = dict[str, str](), dict[str, int]()
    for split in limits:
        digests[FILES[split]], found[split] = _scan(folder / FILES[split])
    seen: dict[str, list[bytes]] = {split: [] for split in limits}
    done, rows = 0, sum(min(limit, found[split]) for split, limit in limits.items())
    with progress("reading ListOps", rows, unit="trees") as shown:
        for split, limit in limits.items():
            there = writer.rows(split)
            for trees in read_trees(folder / FILES[split], limit, max_length, operators):
                append(writer, split, trees, first=max(there - len(seen[split]), 0))
                seen[split] += row_digests((trees.tokens, trees.lengths))
                done += trees.labels.size
                shown.update(done)
    # no path and no time: the same files elsewhere are the same data
    return {
        "source": "official files", "source_sha256": digests, "source_rows": found,
        "duplicates": duplicates(seen), **_cuts(limits, max_length, operators),
    }  # fmt: skip


def _cuts(limits: Mapping[str, int], max_length: int, operators: Iterable[str]) -> dict[str, Any]:
    extra = sorted(set(operators) - set(OFFICIAL))
    return {"asked": dict(limits), "max_length": max_length, "extra_operators": extra}


def _scan(path: Path) -> tuple[str, int]:
    """sha256 of a file, and how many rows it has."""
    digest, lines, last = hashlib.sha256(), 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
                lines, last = lines + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest(), max(lines + (last != b"\n") - 1, 0)


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
        if len(chunk) == CHUNK:
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
