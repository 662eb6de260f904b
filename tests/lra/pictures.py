"""Made-up pictures in the layouts of CIFAR-10, and the image task on them."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as Pillow

from lra.tasks.image import Image
from lra.tasks.spec import Batch


def pictures(n: int, seed: int = 0, colours: bool = True) -> np.ndarray:
    """Pictures of 32 x 32 pixels, one of them black in each."""
    rng = np.random.default_rng(seed)
    shape = (n, 32, 32, 3) if colours else (n, 32, 32)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels[:, 5, 7] = 0
    return pixels


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images(contents: Iterable[bytes | None]) -> pa.Array:
    """The column of a table that holds these files."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], kind)


def write_parquet(
    folder: Path, *, train: int = 40, test: int = 20, colours: bool = True, **columns: pa.Array
) -> Path:
    """A folder in the hub's layout; ``columns`` replace those of train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n, seed in (("train", train, 0), ("test", test, 1)):
        contents = [png(pixels) for pixels in pictures(n, seed, colours)]
        table = {"img": images(contents), "label": pa.array([i % 10 for i in range(n)], pa.int64())}
        if split == "train":
            table.update(columns)
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=16)
    return folder


def write_binary(folder: Path) -> Path:
    """The same pictures as ``write_parquet``, five times eight of them and twenty."""
    folder.mkdir(parents=True, exist_ok=True)

    def records(pixels: np.ndarray, first: int) -> bytes:
        planes = pixels.reshape(len(pixels), 1024, 3).swapaxes(1, 2).reshape(len(pixels), 3072)
        labels = np.array([(first + i) % 10 for i in range(len(pixels))], np.uint8)
        return np.concatenate([labels[:, None], planes], axis=1).tobytes()

    train = pictures(40, 0)
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records(train[8 * i : 8 * i + 8], 8 * i))
    (folder / "test_batch.bin").write_bytes(records(pictures(20, 1), 0))
    return folder


def make(tmp_path: Path, source: Path, **knobs) -> Image:
    """The task on a source, its data in a folder of the test's own."""
    return Image(root=tmp_path / "data", source=str(source), **knobs)


def batch(task: Image, numbers: Sequence[int] = (0, 1, 2)) -> Batch:
    """Those rows of test."""
    return task.collate(task.build("test"), np.array(numbers))
