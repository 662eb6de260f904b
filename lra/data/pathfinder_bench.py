"""How fast Pathfinder images are drawn: ``python -m lra.data.pathfinder_bench``.

The 2019 generator needs 0.15 to 0.44 s an image at 32 x 32, 6.5 s at 64, 2.3 s at 128 and 0.26 s at
256, on one core.
"""

import logging
import time
from datetime import timedelta

import numpy as np

from lra.app import set_up_logging
from lra.data.pathfinder_law import SIZES, law_of
from lra.data.pathfinder_paint import draw_image

log = logging.getLogger("lra.pathfinder_bench")
SECONDS = 8.0  # of each size
IMAGES = 200_000  # of a data set


def main() -> None:
    """Logs images a second on one core, for each size of the hard task."""
    set_up_logging()
    for size in SIZES:
        law = law_of(size, "hard")
        # what is made once: stencils, for each margin, and compiled code
        begin = time.perf_counter()
        for number in range(20):
            draw_image(law, np.random.default_rng([0, number]))
        ready_s, begin = time.perf_counter() - begin, time.perf_counter()
        images = restarts = 0
        while (spent_s := time.perf_counter() - begin) < SECONDS:
            restarts += draw_image(law, np.random.default_rng([1, images])).restarts
            images += 1
        rate = images / spent_s
        log.info(
            "%3d x %3d: %8.1f images/s on one core, %7.2f ms an image, %6.1f restarts an image; "
            "%d images on 2 cores in %s; first 20 images in %.1f s",
            size, size, rate, 1e3 / rate, restarts / images, IMAGES,
            timedelta(seconds=round(IMAGES / rate / 2)), ready_s,
        )  # fmt: skip


if __name__ == "__main__":
    main()
