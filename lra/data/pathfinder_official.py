"""Splits the official images and writes them to a store. The release itself has no splits."""

import hashlib
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.pathfinder_folder import Listed, list_images, metadata_files, read_image
from lra.data.workers import cores, ordered_map
from lra.data.writer import Writer
from lra.errors import UserError, nearest
from lra.progress import progress

RULES = ("seeded", "s4")
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
        UserError: there is no metadata.
    """
    places = [*metadata_files(folder), *sorted((folder / "imgs").glob("*"))]
    facts = [(str(path), path.stat()) for path in places]
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in facts]
    return {"files": files, "size": size, "difficulty": difficulty, **_cuts(counts, rule, seed)}


def write_official(
    writer: Writer,
    folder: Path,
    counts: Mapping[str, int],
    rule: str,
    seed: int,
    size: int,
    difficulty: str,
) -> dict[str, Any]:
    """Writes at most ``counts`` images of each split; returns the facts of the manifest."""
    listed = list_images(folder, size, difficulty)
    orders = split(len(listed.names), rule, seed)
    orders = {name: order[: counts[name]] for name, order in orders.items()}
    seen: dict[bytes, str] = {}
    repeated = done = 0
    with progress("reading Pathfinder", sum(map(len, orders.values())), unit="images") as shown:
        for name, order in orders.items():
            for pixels, labels in _blocks(folder, size, listed, order):
                writer.append(name, x=pixels, y=labels)
                done += len(labels)
                shown.update(done)
                for row in pixels:
                    key = hashlib.blake2b(row.data, digest_size=16).digest()
                    repeated += seen.setdefault(key, name) != name
    # no path and no time: the same files elsewhere are the same data
    return {
        "source": "official files", "metadata_sha256": listed.sha256, "size": size,
        "difficulty": difficulty, "empty_images_skipped": listed.skipped,
        "images_of_another_split": repeated, **_cuts(counts, rule, seed),
    }  # fmt: skip


def split(n: int, rule: str, seed: int) -> dict[str, np.ndarray]:
    """Numbers of the images of each split: 80 %, 10 % and 10 %.

    Args:
        n: images in all.
        rule: ``seeded``, a permutation of NumPy's by ``seed``; ``s4``, as S4, Mega and S5 split:
            ``torch.utils.data.random_split`` of images in the order of the metadata, seed 42.
        seed: of ``seeded``.

    Raises:
        UserError: there are too few.
    """
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
    drawn = S4_SEED if rule == "s4" else seed
    return {"asked": dict(counts), "split_rule": rule, "split_seed": drawn}


def _blocks(
    folder: Path, size: int, listed: Listed, order: np.ndarray
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    names, places, labels = (part[order] for part in (listed.names, listed.places, listed.labels))
    block = max(BLOCK_BYTES // size**2, 1)
    workers = cores() if len(order) * size**2 > WORTH_WORKERS else 1
    read = partial(_read_block, folder, size, names, places, block)
    with closing(ordered_map(read, workers)) as blocks:
        for first in range(0, len(order), block):
            yield next(blocks), labels[first : first + block]


def _read_block(
    folder: Path, size: int, names: np.ndarray, places: np.ndarray, block: int, index: int
) -> np.ndarray:
    rows = slice(index * block, (index + 1) * block)
    images = [
        read_image(folder, name.decode(), size, place).ravel()
        for name, place in zip(names[rows], places[rows], strict=True)
    ]
    return np.stack(images) if images else np.empty((0, size**2), np.uint8)
