"""Reads pairs of documents in the layout of LRA's AAN files.

``new_aan_pairs.{train,eval,test}.tsv``: no header, no quoting, one pair a line, five columns with
tabs between: label (``0.0`` or ``1.0``), two paper ids, two texts.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.characters import Codec, not_utf8
from lra.data.digests import digest
from lra.data.files import stamps
from lra.data.release import how
from lra.data.splits import duplicates, label_counts
from lra.data.writer import Writer
from lra.errors import UserError
from lra.progress import progress

FILES = {
    "train": "new_aan_pairs.train.tsv",
    "val": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
ROWS = {"train": 147_086, "val": 18_090, "test": 17_437}  # of LRA
LABELS = {b"0.0": 0, b"1.0": 1, b"0": 0, b"1": 1}
COLUMNS = 5
LONGEST_LINE = 2**26  # bytes; a longer one is not such a file
CHUNK = 250  # pairs
HOW = how("retrieval", "lra_release/lra_release/tsv_data") + (
    "; any other pairs in that layout are read too, under a name of their own (task.set_name)"
)
Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Scan:
    """What one pass over a file finds: sha256 of its bytes, label of each row."""

    sha256: str
    labels: np.ndarray


def find(source: str | Path | None) -> dict[str, Path]:
    """The file of each split.

    Raises:
        UserError: no folder is given, or a file is missing.
    """
    if source is None:
        raise UserError(f"retrieval needs the AAN pairs of LRA: {HOW}")
    folder = Path(source).expanduser().resolve()
    if folder.suffix in (".pickle", ".pkl") or any(folder.glob("retrieval.*.pickle")):
        raise UserError(
            f"{folder}: the pickles of Nystromformer and Skyformer are not read, a pickle can run "
            "code when it is loaded, and they hold ids padded to 4,096: take the TSV files that "
            "they were made from"
        )
    files = {split: folder / name for split, name in FILES.items()}
    for path in files.values():
        if not path.is_file():
            raise UserError(f"there is no {path}: {HOW}")
    return files


def key(files: Mapping[str, Path]) -> dict[str, Any]:
    """Names the files without reading them."""
    return {"files": stamps(files.values())}


def scan_all(files: Mapping[str, Path]) -> dict[str, Scan]:
    """One pass over each file.

    Raises:
        UserError: one cannot be read or a line is wrong; names file and line.
    """
    found, done = {}, 0
    total = sum(path.stat().st_size for path in files.values())
    with progress("checking pairs", total, unit="bytes") as shown:
        for split, path in files.items():
            read, labels = hashlib.sha256(), []
            for number, line in _lines(path):
                read.update(line)
                labels.append(_label(path, number, line))
                done += len(line)
                shown.update(done)
            if not labels:
                raise UserError(f"{path}: the file is empty")
            found[split] = Scan(read.hexdigest(), np.array(labels, np.uint8))
    return found


def _label(path: Path, number: int, line: bytes) -> int:
    """The label of a line that has all its columns."""
    tabs = line.count(b"\t")
    if tabs != COLUMNS - 1:
        raise UserError(
            f"{path}, line {number}: {tabs + 1} columns, expected {COLUMNS} (label, two ids, two "
            "texts)"
        )
    label = line[: line.index(b"\t")]
    if label not in LABELS:
        shown = label.decode(errors="backslashreplace")[:20]
        raise UserError(f"{path}, line {number}: the label must be 0.0 or 1.0, not '{shown}'")
    return LABELS[label]


def pairs(path: Path, wanted: np.ndarray) -> Iterator[list[Pair]]:
    """The texts of the rows of those ascending numbers, some at a time.

    Raises:
        UserError: one of them is not UTF-8; names file and line.
    """
    take, found = iter(wanted.tolist()), list[Pair]()
    following = next(take, None)
    for number, line in _lines(path):
        if following is None:
            break
        if number - 1 != following:
            continue
        if problem := not_utf8(line):
            raise UserError(f"{path}, line {number}: {problem}")
        _, _, _, first, second = line.rstrip(b"\r\n").split(b"\t")
        found.append((first, second))
        following = next(take, None)
        if len(found) == CHUNK:
            yield found
            found = []
    if found:
        yield found


def write_pairs(
    writer: Writer,
    files: Mapping[str, Path],
    labels: Mapping[str, np.ndarray],
    chosen: Mapping[str, np.ndarray],
    codec: Codec,
) -> dict[str, Any]:
    """Appends the chosen pairs as columns x, x2 and y, from where an interrupted build stopped.

    Returns:
        Facts for the manifest: labels of each split, pairs and documents that recur across splits,
        documents without a text.
    """
    seen: dict[str, list[bytes]] = {split: [] for split in files}
    papers: dict[str, set[bytes]] = {split: set() for split in files}
    empty = done = 0
    with progress("reading pairs", sum(map(len, chosen.values())), unit="pairs") as shown:
        for split, path in files.items():
            start, there = 0, writer.rows(split)
            for part in pairs(path, chosen[split]):
                digests = [(digest(first), digest(second)) for first, second in part]
                seen[split] += [first + second for first, second in digests]
                papers[split].update(one for pair in digests for one in pair)
                empty += sum(not text for pair in part for text in pair)
                rows = chosen[split][start : start + len(part)]
                new = slice(max(there - start, 0), None)
                if first := [pair[0] for pair in part[new]]:
                    x, x2 = codec.encode(first), codec.encode([pair[1] for pair in part[new]])
                    writer.append(split, x=x, x2=x2, y=labels[split][rows[new]])
                start, done = start + len(part), done + len(part)
                shown.update(done)
    return {
        "labels": {split: label_counts(labels[split][rows]) for split, rows in chosen.items()},
        "duplicates": duplicates(seen),
        "documents": duplicates({split: sorted(digests) for split, digests in papers.items()}),
        "empty_documents": empty,
    }


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their ends."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(f"{path}, line {number}: too long, this is no file of pairs")
                yield number, line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
