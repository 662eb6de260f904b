"""Splits the official images and writes them to a store. The release itself has no splits."""

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lra.data.digests import row_digests
from lra.data.files import stamps
from lra.data.pathfinder_folder import (
    Listed,
    decode_image,
    list_images,
    metadata_files,
    read_file,
)
from lra.data.splits import duplicates
from lra.data.workers import cores, ordered_map
from lra.data.writer import Writer
from lra.errors import UserError, nearest
from lra.progress import progress

READER = 2  # goes up whenever the same files give another store or manifest
ROWS = 200_000  # images of a size and a difficulty in LRA's release
RULES = ("seeded", "s4", "all")
S4_SEED = 42
BLOCK_BYTES = 2**22  # pixels that a worker reads at a time
WORTH_WORKERS = 2**24  # pixels; fewer are read here before worker processes have started


def check_rule(rule: str) -> str:
    """The rule itself.

    Raises:
        UserError: there is no such one.
    """
    if rule not in RULES:
        raise nearest(str(rule), RULES, kind="split rule")
    return rule


def official_key(
    folder: Path,
    counts: Mapping[str, int],
    rule: str,
    seed: int,
    size: int,
    difficulty: str,
) -> dict[str, Any]:
    """Names the files without reading them: what changed has another size or time.

    Raises:
        UserError: there is no metadata, or a folder cannot be read.
    """
    parts = [path for path in sorted((folder / "imgs").glob("*")) if path.is_dir()]
    return {
        "reader": READER, "files": stamps(metadata_files(folder)),
        "images": [_stamp(part) for part in parts], "size": size, "difficulty": difficulty,
        **_cuts(counts, rule, seed),
    }  # fmt: skip


def _stamp(folder: Path) -> list[str | int]:
    """Path of a folder, and number, bytes and latest time of its files."""
    try:
        with os.scandir(folder) as entries:
            facts = [entry.stat() for entry in entries]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    latest = max((fact.st_mtime_ns for fact in facts), default=0)
    return [str(folder), len(facts), sum(fact.st_size for fact in facts), latest]


def write_official(
    writer: Writer,
    folder: Path,
    counts: Mapping[str, int],
    rule: str,
    seed: int,
    size: int,
    difficulty: str,
) -> dict[str, Any]:
    """Writes at most ``counts`` images of each split, from where an interrupted build stopped.

    Returns:
        The facts of the manifest.
    """
    listed = list_images(folder, size, difficulty)
    orders = split(len(listed.names), rule, seed)
    orders = {name: order[: counts[name]] for name, order in orders.items()}
    seen: dict[str, list[bytes]] = {}
    digests = dict[str, str]()
    done = 0
    with progress("reading Pathfinder", sum(map(len, orders.values())), unit="images") as shown:
        for name, order in orders.items():
            seen[name] = [row for part in writer.kept(name, "x") for row in row_digests(part)]
            digest = hashlib.sha256()
            for block in _blocks(folder, size, listed, order, writer.rows(name)):
                digest.update(block.digests)
                if len(block.labels):
                    writer.append(name, x=block.pixels, y=block.labels)
                    seen[name] += row_digests(block.pixels)
                done += block.images
                shown.update(done)
            digests[name] = digest.hexdigest()
    # no path and no time: the same files elsewhere are the same data
    return {
        "source": "official files", "metadata_sha256": listed.sha256, "images_sha256": digests,
        "source_rows": len(listed.names) + listed.skipped, "size": size, "difficulty": difficulty,
        "empty_images_skipped": listed.skipped, "duplicates": duplicates(seen),
        **_cuts(counts, rule, seed),
    }  # fmt: skip


def split(n: int, rule: str, seed: int) -> dict[str, np.ndarray]:
    """Numbers of the images of each split: 80 %, 10 % and 10 %, or all of them in test.

    Args:
        n: images in all.
        rule: ``seeded``, a permutation of NumPy's by ``seed``; ``s4``, as S4, Mega and S5 split:
            ``torch.utils.data.random_split`` of images in the order of the metadata, seed 42;
            ``all``, every image tests, and there is no other split.
        seed: of ``seeded``.

    Raises:
        UserError: there are too few.
    """
    if rule == "all":
        return {"test": np.arange(n)}
    share = int(0.1 * n)
    if not share:
        raise UserError(f"{n} images are too few to split: 10 or more are needed")
    if rule == "s4":
        import torch

        generator = torch.Generator().manual_seed(S4_SEED)
        order = torch.randperm(n, generator=generator).numpy()
    else:
        order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, [n - 2 * share, n - share])
    return dict(zip(("train", "val", "test"), parts, strict=True))


def _cuts(counts: Mapping[str, int], rule: str, seed: int) -> dict[str, Any]:
    drawn = {"seeded": seed, "s4": S4_SEED, "all": None}[rule]
    return {"asked": dict(counts), "split_rule": rule, "split_seed": drawn}


class _Block(NamedTuple):
    """Some images of a split: how many, sha256 of the file of each, and of those that are not
    stored yet pixels and labels."""

    images: int
    digests: bytes
    pixels: np.ndarray
    labels: np.ndarray


def _blocks(
    folder: Path, size: int, listed: Listed, order: np.ndarray, stored: int
) -> Generator[_Block]:
    """The images of a split, of which the first ``stored`` ones are only hashed."""
    names, places, labels = (part[order] for part in (listed.names, listed.places, listed.labels))
    block = max(BLOCK_BYTES // size**2, 1)
    workers = cores() if len(order) * size**2 > WORTH_WORKERS else 1
    read = partial(_read_block, folder, size, names, places, block, stored)
    with closing(ordered_map(read, workers)) as blocks:
        for first in range(0, len(order), block):
            digests, pixels = next(blocks)
            mine = labels[first : first + block]
            yield _Block(len(mine), digests, pixels, mine[len(mine) - len(pixels) :])


def _read_block(
    folder: Path,
    size: int,
    names: np.ndarray,
    places: np.ndarray,
    block: int,
    stored: int,
    index: int,
) -> tuple[bytes, np.ndarray]:
    first, digests, images = index * block, list[bytes](), list[np.ndarray]()
    rows = zip(names[first : first + block], places[first : first + block], strict=True)
    for row, (name, place) in enumerate(rows, first):
        content = read_file(folder, name.decode(), place)
        digests.append(hashlib.sha256(content).digest())
        if row >= stored:
            images.append(decode_image(folder / name.decode(), content, size).ravel())
    pixels = np.stack(images) if images else np.empty((0, size**2), np.uint8)
    return b"".join(digests), pixels
