"""Building Path-256 streams: memory is bounded however many images there are."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# writes images of 65,536 bytes that cost nothing to draw, and tells by how much the process grew
CODE = """
import resource, sys
import numpy as np
from lra.data import pathfinder_set, writer
from lra.tasks.pathfinder import Pathfinder

def blocks(law, seed, split, first, end):
    for start in range(first, end, 8):
        n = min(8, end - start)
        pixels = np.zeros((n, 65_536), np.uint8)
        pixels[:, :4] = np.arange(start, start + n, dtype="<u4")[:, None].view(np.uint8)
        pixels[:, 4] = len(split)
        yield pixels, np.zeros(n, np.uint8)

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

pathfinder_set._blocks = blocks
# an eighth of the real ones
writer.BATCH_BYTES, writer.SHARD_BYTES = 2**22, 2**24
def build(root, n):
    return Pathfinder(root=root, size=256, n_train=n, n_val=1, n_test=1).manifest()

# what is loaded or allocated once, and the first shards
build(sys.argv[1] + "/a", 600)
before = peak_mib()
facts = build(sys.argv[1] + "/b", 3_000)
assert len(facts["files"]["train"]) > 9, facts["files"]
assert not any(facts["duplicates"].values())
print(peak_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_five_times_the_images_take_no_more_memory(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    # of 188 MiB that are written
    assert float(ended.stdout) < 32
