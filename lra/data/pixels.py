"""Images stored as rows of bytes, and the two inputs that published models take of them.

Legend: B batch, N pixels of an image, row by row.
"""

from dataclasses import dataclass

import numpy as np

from lra.errors import UserError
from lra.tasks.knobs import check_choice, check_flag
from lra.tasks.spec import Batch

GRAY_LEVELS = 256


@dataclass(frozen=True)
class PixelInput:
    """How a gray image enters a model. Results of the two encodings are not comparable.

    Attributes:
        pixels: ``embed``, ids 0..255 without offset for a table of 256 vectors (LRA withholds the
            order of the gray levels), or ``scalar``, ``(pixel / 255 - mean) / std`` (S4, Mega).
        mask_zero_pixels: take black pixels for padding, as LRA's code (``inputs > 0``) and
            Nystromformer's do; else every pixel is real.
        mean, std: of ``scalar``, on pixels in [0, 1].

    Raises:
        UserError: a knob is wrong.
    """

    pixels: str = "embed"
    mask_zero_pixels: bool = False
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_choice("pixels", self.pixels, ("embed", "scalar"))
        check_flag("mask_zero_pixels", self.mask_zero_pixels)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{name}={value}: write a number")
        if not self.std > 0:
            raise UserError(f"std={self.std}: write a number above 0")

    @property
    def vocab(self) -> int | None:
        """Number of ids, or None."""
        return GRAY_LEVELS if self.pixels == "embed" else None

    @property
    def features(self) -> int | None:
        """Scalars of a position, or None."""
        return None if self.pixels == "embed" else 1

    def batch(self, images: np.ndarray, labels: np.ndarray) -> Batch:
        """Bytes ``(B, N)`` and labels ``(B,)`` as ids ``(B, N)`` or scalars ``(B, N, 1)``."""
        import torch

        gray = torch.from_numpy(images)
        mask = gray > 0 if self.mask_zero_pixels else torch.ones(gray.shape, dtype=torch.bool)
        y = torch.from_numpy(labels.astype(np.int64))
        if self.pixels == "embed":
            return Batch(gray.long(), mask, y)
        x = gray.float().div_(GRAY_LEVELS - 1).sub_(self.mean).div_(self.std)
        return Batch(x.unsqueeze(-1), mask, y)
