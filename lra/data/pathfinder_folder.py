"""Reads the folders of the official Pathfinder release, and of the 2019 generator.

::

    pathfinder32/curv_contour_length_14/
        metadata/0.npy ...          text despite the name, or an array of strings by ``numpy.save``
        imgs/0/sample_0.png ...

A line or row of metadata is ``imgs/0 sample_0.png 0 1 1.0 14 4 2 0.5 1 1``: folder, file, number,
label, continuity, paddles of a target and of a distractor, length, thickness and margin of a
paddle, number of contrasts.
"""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from lra.data.pathfinder_law import CONTOUR, FOLDERS, NAMES
from lra.data.release import how
from lra.errors import UserError

log = logging.getLogger(__name__)

COLUMNS = 11
LABEL, CONTOUR_LENGTH = 3, 5
ARRAY = b"\x93NUMPY"  # how a file of numpy.save begins
LARGEST = 2**26  # bytes of a metadata file
# the one image of the release that is known to be empty: (size, difficulty, name)
EMPTY = (32, "easy", "imgs/0/sample_172.png")


class Listed(NamedTuple):
    """Images in the order of the metadata.

    Attributes:
        names: paths inside the folder, as ASCII bytes.
        labels: 1 connected, 0 not.
        places: ``(n, 2)`` number of the metadata file, and line in it, that lists the image.
        skipped: images left out, because they are known to be empty.
        sha256: of all metadata.
    """

    names: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    skipped: int
    sha256: str


def find_folder(source: Path, size: int, difficulty: str) -> Path:
    """The folder of a size and difficulty in a source: the release as unpacked, a part of it, or
    that folder itself.

    Raises:
        UserError: it is not there; says how to get it.
    """
    here = Path(f"pathfinder{size}") / FOLDERS[difficulty]
    places = [source / here, source / "lra_release" / here, source / here.name, source]
    found = [place for place in places if (place / "metadata").is_dir()]
    if not found:
        get = how(NAMES[size][0], "lra_release")
        raise UserError(
            f"no {here} in {source}: {get}; or leave out task.source to have images drawn by the "
            "same rules"
        )
    if size == 128:
        _warn_of_copies(found[:2], source)
    return found[0]


def _warn_of_copies(found: list[Path], source: Path) -> None:
    """The release holds Path-X twice, and on the inner copy others saw nothing learned."""
    inner = source / "lra_release"
    other = f", not {found[1]}" if len(found) > 1 else ""
    if other or found[0].is_relative_to(inner) or source.name == "lra_release":
        log.warning(
            "reading %s%s: the release has two copies of pathfinder128, and on the inner one, "
            "lra_release/lra_release/pathfinder128, a ResNet-18 was reported to stay at chance "
            "(google-research/long-range-arena#38); try model=cnn2d on it first",
            found[0], other,
        )  # fmt: skip


def metadata_files(folder: Path) -> list[Path]:
    """The metadata in numerical order.

    Raises:
        UserError: there is none, or a name is no number.
    """
    files = [path for path in (folder / "metadata").iterdir() if path.suffix == ".npy"]
    for path in files:
        if not path.stem.isdecimal():
            raise UserError(f"{path}: metadata files are named by numbers, as 0.npy")
    if not files:
        raise UserError(f"{folder / 'metadata'}: no metadata, expected 0.npy and so on")
    return sorted(files, key=lambda path: int(path.stem))


def list_images(folder: Path, size: int, difficulty: str) -> Listed:
    """The images of a folder.

    Raises:
        UserError: metadata cannot be read or says something wrong; names file and line.
    """
    names, labels, places, skipped = list[str](), list[int](), list[tuple[int, int]](), 0
    digest = hashlib.sha256()
    for path in metadata_files(folder):
        content = _read(path)
        digest.update(content)
        for number, columns in _rows(path, content):
            try:
                name, label = _image(columns, CONTOUR[difficulty])
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            if (size, difficulty, name) == EMPTY and _is_empty(folder / name):
                skipped += 1
                continue
            names.append(name)
            labels.append(label)
            places.append((int(path.stem), number))
    return Listed(
        np.array(names, "S"), np.array(labels, np.uint8), np.array(places, np.int32), skipped,
        digest.hexdigest(),
    )  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: too large, this is no Pathfinder metadata")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _rows(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """Numbered from 1, the columns of each line or row."""
    if content.startswith(ARRAY):
        return _array_rows(path)
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: neither text nor an array of numpy.save") from None
    rows = [(number, line.split()) for number, line in enumerate(lines, 1)]
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows


def _array_rows(path: Path) -> list[tuple[int, list[str]]]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: {error} (arrays of objects are pickles, which are never loaded)"
        ) from None
    if array.ndim != 2 or array.dtype.kind not in "SU":
        raise UserError(f"{path}: expected rows of strings, got {array.dtype} {array.shape}")
    text = np.char.decode(array, "ascii") if array.dtype.kind == "S" else array
    return [(number, [str(item) for item in row]) for number, row in enumerate(text, 1)]


def _image(columns: list[str], contour_length: int) -> tuple[str, int]:
    """Name and label of a row; a ValueError says what is wrong with it."""
    if len(columns) != COLUMNS:
        raise ValueError(f"{len(columns)} columns, expected {COLUMNS}")
    name = PurePosixPath(columns[0]) / columns[1]
    if name.is_absolute() or ".." in name.parts or not str(name).isprintable():
        raise ValueError(f"'{name}' is no image of this folder")
    if columns[LABEL] not in ("0", "1"):
        raise ValueError(f"the label must be 0 or 1, not '{columns[LABEL][:20]}'")
    if columns[CONTOUR_LENGTH] != str(contour_length):
        raise ValueError(
            f"contours of {columns[CONTOUR_LENGTH][:20]} paddles, expected {contour_length}: "
            "another difficulty, or no Pathfinder metadata"
        )
    return str(name), int(columns[LABEL])


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def read_image(folder: Path, name: str, size: int, place: Sequence[int]) -> np.ndarray:
    """An image as ``(size, size)`` bytes.

    Raises:
        UserError: it is missing, empty, damaged or of another size.
    """
    return decode_image(folder / name, read_file(folder, name, place), size)


def read_file(folder: Path, name: str, place: Sequence[int]) -> bytes:
    """The file of an image.

    Raises:
        UserError: it is missing or cannot be read.
    """
    path = folder / name
    try:
        return path.read_bytes()
    except FileNotFoundError:
        file = folder / "metadata" / f"{place[0]}.npy"
        raise UserError(f"{file}, line {place[1]}: names {path}, which is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def decode_image(path: Path, content: bytes, size: int) -> np.ndarray:
    """The content of a file as ``(size, size)`` bytes.

    Raises:
        UserError: it is empty, damaged or of another size.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (size, size):
                raise UserError(f"{path}: {image.width} x {image.height} pixels, expected {size}")
            return np.asarray(image.convert("L"))
    # what PIL raises for damaged files
    except (OSError, SyntaxError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        what = f"no readable PNG ({error})" if content else "empty"
        raise UserError(f"{path}: {what}; restore it from the source") from None
