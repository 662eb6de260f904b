"""CIFAR-10 (Krizhevsky 2009) in gray: a table as on the hub, or the binary version.

``cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin``: records of 3,073 bytes, a label and the
red, the green and the blue picture. A table may hold gray pictures already; they stay as they are.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lra.data.files import read_file, sha256, stamps
from lra.data.hub import Offer, Table
from lra.data.splits import ORIGINS, Source
from lra.errors import UserError

OFFER = Offer(
    "CIFAR-10",
    "uoft-cs/cifar10",
    "0b2714987fa478483af9968de7c934580d0bb9a2",
    "`curl -O https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz && "
    "tar xf cifar-10-binary.tar.gz` (FOLDER is cifar-10-batches-bin)",
)
ROWS = {"train": 50_000, "test": 10_000}
CLASSES = 10
SIDE = 32
PIXELS = SIDE * SIDE
GRAYS = ("tf", "pil")
BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
RECORD = 1 + 3 * PIXELS


def open_cifar(source: str, revision: str, gray: str) -> Source:
    """The pictures of a name on the hub, or of a local copy in either layout.

    Args:
        source: where.
        revision: the commit of a name on the hub.
        gray: how colours become gray, see ``to_gray``.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(source).expanduser()
    for folder in (path, path / "cifar-10-batches-bin"):
        if (folder / BATCHES["test"][0]).is_file():
            return Binary(folder.resolve(), gray)
    for folder in (path, path / "cifar-10-batches-py"):
        if (folder / "data_batch_1").is_file():
            raise UserError(
                f"{folder} holds pickles, which can run code when they are read: take the binary "
                f"version, {OFFER.archive}"
            )
    return Pictures(source, revision, gray)


def to_gray(colour: np.ndarray, kind: str) -> np.ndarray:
    """Gray values (uint8) of pictures ``(..., 3)``.

    tf: ``tf.image.rgb_to_grayscale`` of bytes, as LRA: weights 0.2989, 0.5870, 0.1140 in fp32, cut
    to a whole number after scaling by 255.5. pil: ITU-R 601 in whole numbers, rounded, as
    torchvision's ``Grayscale`` of a Pillow image: the S4 family, Mega.
    """
    if kind == "tf":
        scaled = colour.astype(np.float32) * np.float32(1 / 255)
        weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
        return ((scaled @ weights) * np.float32(255.5)).astype(np.uint8)
    whole = colour.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return np.right_shift(whole + np.uint32(0x8000), 16).astype(np.uint8)


class Pictures:
    """A table with columns ``img`` (PNG) and ``label``."""

    def __init__(self, source: str, revision: str, gray: str):
        columns = {"img": ("struct<bytes: binary",), "label": ("int",)}
        self._table = Table(source, revision, OFFER, "image", columns, CLASSES)
        self._gray = gray

    def key(self) -> dict[str, Any]:
        return self._table.key()

    def facts(self) -> dict[str, Any]:
        return self._table.facts()

    def labels(self, origin: str) -> np.ndarray:
        return self._table.labels(origin)

    def rows(self, origin: str, wanted: np.ndarray) -> Iterator[list[bytes]]:
        import pyarrow.compute as pc

        for first, chunk in self._table.chunks(origin, ["img"]):
            low, high = np.searchsorted(wanted, [first, first + chunk.num_rows])
            if low == high:
                continue
            images = pc.struct_field(chunk.column("img"), "bytes").take(wanted[low:high] - first)
            contents = []
            for row, image in zip(wanted[low:high], images.to_pylist(), strict=True):
                try:
                    contents.append(gray_png(image or b"", self._gray))
                except ValueError as error:
                    where = self._table.where(origin, int(row))
                    raise UserError(f"{where}: {error}") from error
            yield contents


def gray_png(image: bytes, gray: str) -> bytes:
    """The 1,024 gray values of a picture, row by row.

    Raises:
        ValueError: it is not a whole PNG of 32 x 32 pixels, gray or RGB.
    """
    from PIL import Image

    if not image:
        raise ValueError("the picture has no bytes")
    try:
        picture = Image.open(io.BytesIO(image), formats=["PNG"])
        fits = picture.size == (SIDE, SIDE) and picture.mode in ("L", "RGB")
        pixels = np.asarray(picture) if fits else None
    # broken files make Pillow raise half a dozen kinds of exception
    except Exception as error:
        raise ValueError(f"not a whole PNG picture ({error})") from error
    if pixels is None:
        raise ValueError(
            f"a picture of {picture.size[0]} x {picture.size[1]} pixels in mode {picture.mode}, "
            f"expected {SIDE} x {SIDE} in L or RGB"
        )
    return (pixels if pixels.ndim == 2 else to_gray(pixels, gray)).tobytes()


class Binary:
    """Files of records."""

    def __init__(self, folder: Path, gray: str):
        self._files = {o: [folder / name for name in BATCHES[o]] for o in ORIGINS}
        self._gray = gray

    def key(self) -> dict[str, Any]:
        return {"files": {origin: stamps(self._files[origin]) for origin in ORIGINS}}

    def facts(self) -> dict[str, Any]:
        files = [file for origin in ORIGINS for file in self._files[origin]]
        digests = {file.name: sha256(file) for file in files}
        return {"source": "cifar-10-batches-bin", "source_sha256": digests}

    def labels(self, origin: str) -> np.ndarray:
        return np.concatenate([self._read(file)[:, 0] for file in self._files[origin]])

    def rows(self, origin: str, wanted: np.ndarray) -> Iterator[list[bytes]]:
        first = 0
        for file in self._files[origin]:
            records = self._read(file)
            low, high = np.searchsorted(wanted, [first, first + len(records)])
            colour = records[wanted[low:high] - first, 1:].reshape(-1, 3, PIXELS)
            first += len(records)
            if low < high:
                yield [row.tobytes() for row in to_gray(colour.swapaxes(1, 2), self._gray)]

    def _read(self, file: Path) -> np.ndarray:
        """The records ``(rows, 3073)``."""
        content = np.frombuffer(read_file(file), np.uint8)
        rows, rest = divmod(len(content), RECORD)
        if rest or not rows:
            raise UserError(
                f"{file}, record {rows + 1}: {rest} bytes instead of {RECORD}: the file is cut off"
            )
        records = content.reshape(rows, RECORD)
        bad = np.flatnonzero(records[:, 0] >= CLASSES)
        if bad.size:
            label = records[bad[0], 0]
            raise UserError(f"{file}, record {bad[0] + 1}: label {label} is not one of 0 to 9")
        return records
