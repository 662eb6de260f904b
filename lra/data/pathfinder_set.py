"""A set of Pathfinder images, the same on any number of worker processes."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import PIL

from lra.data.digests import row_digests
from lra.data.pathfinder_law import Law
from lra.data.splits import duplicates
from lra.data.workers import cores, ordered_map
from lra.data.writer import Writer
from lra.progress import progress
from lra.tasks.spec import SPLITS

GENERATOR = "pathfinder-1"  # goes up whenever the same seed gives other images
BLOCK_BYTES = 2**19  # pixels that a worker draws at a time
WORTH_WORKERS = 2**22  # pixels; fewer are drawn here before worker processes have started


def generated_key(law: Law, counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """All that decides the images and their splits."""
    return {"generator": GENERATOR, "seed": seed, "asked": dict(counts), "law": asdict(law)}


def write_generated(
    writer: Writer, law: Law, counts: Mapping[str, int], seed: int
) -> dict[str, Any]:
    """Writes the images that the writer does not have yet; returns the facts of the manifest."""
    done = sum(writer.rows(split) for split in counts)
    seen: dict[str, list[bytes]] = {}
    with progress("drawing Pathfinder", sum(counts.values()), unit="images", start=done) as shown:
        for split, count in counts.items():
            seen[split] = [row for part in writer.kept(split, "x") for row in row_digests(part)]
            for pixels, labels in _blocks(law, seed, split, writer.rows(split), count):
                writer.append(split, x=pixels, y=labels)
                seen[split] += row_digests(pixels)
                done += len(labels)
                shown.update(done)
    facts = {"source": "generated", "pillow": PIL.__version__, "duplicates": duplicates(seen)}
    return {**facts, **generated_key(law, counts, seed)}


def _blocks(
    law: Law, seed: int, split: str, first: int, end: int
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    left = end - first
    workers = cores() if left * law.window**2 > WORTH_WORKERS else 1
    with closing(ordered_map(partial(draw_block, law, seed, split, first, end), workers)) as blocks:
        while left > 0:
            yield (block := next(blocks))
            left -= len(block[1])


def draw_block(
    law: Law, seed: int, split: str, first: int, end: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """A block of the images from ``first`` to ``end`` of a split: ``(n, pixels)`` bytes, labels.

    Each image is a function of law, seed, split and its own number.
    """
    from lra.data.pathfinder_paint import draw_image

    size = max(BLOCK_BYTES // law.window**2, 1)
    rows = range(first + block * size, min(first + (block + 1) * size, end))
    pixels = np.empty((len(rows), law.window**2), np.uint8)
    labels = np.empty(len(rows), np.uint8)
    for i, row in enumerate(rows):
        drawn = draw_image(law, np.random.default_rng([seed, SPLITS.index(split), row]))
        pixels[i], labels[i] = drawn.pixels.ravel(), drawn.label
    return pixels, labels
