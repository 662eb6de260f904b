"""One example made by hand and what each protocol makes of it, as far as ids and padding go.

Text, retrieval and image have theirs beside their other tests.
"""

import numpy as np
import pytest
from PIL import Image

from lra.config import load
from lra.data.pathfinder_law import CONTOUR, FOLDERS, NAMES
from lra.presets import compose, names
from lra.runner import make_task

TREE = "( ( ( ( ( [MAX 4 ) ( ( ( [MIN 2 ) 9 ) ] ) ) 0 ) ] ) )"
IDS = [12, 5, 11, 3, 10, 15, 1, 15]
# positions of a batch of this tree alone, and ids altogether
LISTOPS = {
    "smoke": (8, 17), "laptop": (8, 17), "lra_paper": (2000, 17), "lra_repo": (2000, 17),
    "xformer_small": (2048, 17), "s4": (9, 18), "mega": (8, 17),
}  # fmt: skip
MASKED = ("lra_paper", "lra_repo", "xformer_small")
IMAGES = [
    (size, recipe.removesuffix(f"_{name}"))
    for size, (name, _) in NAMES.items()
    for recipe in names("recipe")
    if recipe.endswith(f"_{name}")
]


def task_of(protocol, task, tmp_path, *overrides):
    config = load(compose(f"protocol={protocol}", f"task={task}", *overrides,
                          f"paths.data='{tmp_path / 'data'}'"))  # fmt: skip
    return make_task(config)


def test_every_protocol_of_these_tasks_is_here():
    known = {("listops", protocol) for protocol in LISTOPS} | set(DRAWN)
    tasks = {task for task, _ in known}
    pairs = {(task, protocol) for task in tasks for protocol in names("protocol")}
    assert known == {pair for pair in pairs if f"{pair[1]}_{pair[0]}" in names("recipe")}
    assert {protocol for size, protocol in IMAGES if size == 32} == set(LISTOPS)


# -- ListOps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", LISTOPS)
def test_a_tree(tmp_path, protocol):
    for split in ("train", "val", "test"):
        (tmp_path / f"basic_{split}.tsv").write_text(f"Source\tTarget\r\n{TREE}\t4\r\n")
    task = task_of(protocol, "listops", tmp_path, f"task.source='{tmp_path}'")
    batch = task.collate(task.build("test"), np.array([0]))
    length, vocab = LISTOPS[protocol]
    # S4 alone has an end of sequence
    wanted = [*IDS, 17] if protocol == "s4" else IDS
    assert batch.x[batch.mask].tolist() == wanted
    assert batch.x[0].tolist() == wanted + [0] * (length - len(wanted))
    assert batch.mask[0].sum() == len(wanted) and batch.y.tolist() == [4]
    assert task.spec.vocab == vocab


# -- Pathfinder --------------------------------------------------------------------------------


@pytest.mark.parametrize("size, protocol", IMAGES)
def test_an_image(tmp_path, size, protocol):
    name = NAMES[size][0]
    difficulty = "easy" if protocol == "laptop" else "hard"
    folder = tmp_path / f"pathfinder{size}" / FOLDERS[difficulty]
    (folder / "imgs" / "0").mkdir(parents=True)
    (folder / "metadata").mkdir()
    lines = []
    for i in range(10):
        pixels = np.full((size, size), 7, np.uint8)
        # the number of the image in the corner, then black, white and gray; and the second row
        pixels[0, :4] = i + 1, 0, 255, 51
        pixels[1, 0] = 204
        Image.fromarray(pixels).save(folder / "imgs" / "0" / f"sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.0 {CONTOUR[difficulty]} 2 2 0.5 1 1\n")
    (folder / "metadata" / "0.npy").write_text("".join(lines))
    task = task_of(protocol, name, tmp_path, f"task.source='{tmp_path}'")
    batch = task.collate(task.build("test"), np.array([0]))

    # the last of torch.randperm(10) under seed 42, which is S4's split, or of NumPy's under seed 0
    s4 = protocol in ("s4", "mega")
    number = 7 if s4 else 1
    levels = [number + 1, 0, 255, 51, 204]
    first = batch.x[0].flatten()[[0, 1, 2, 3, size]].tolist()
    if s4:
        mean, std = (0.5, 0.5) if protocol == "mega" else (0, 1)
        assert first == pytest.approx([(level / 255 - mean) / std for level in levels], abs=1e-6)
    elif protocol == "laptop":
        assert first == pytest.approx([level / 255 for level in levels], abs=1e-6)
    else:
        assert first == levels
    assert batch.x.shape[1] == size**2 and batch.y.tolist() == [number % 2]
    assert batch.mask[0, 1] == (protocol not in MASKED) and batch.mask.sum() >= size**2 - 1


# -- drawn rows --------------------------------------------------------------------------------

# of the first row of seed 0: tokens, ids, its first four symbols or keys with their values (place
# and id), and the first four scored places with their labels. A value is its id less the first
# value's: 3, or half of the ids of mqar; and each label follows from the row by hand
DRAWN = {
    ("copying", "laptop"): (
        128, 11, [(0, 3), (1, 7), (2, 10), (3, 10)], [(118, 0), (119, 4), (120, 7), (121, 7)],
    ),
    ("copying", "smoke"): (
        40, 11, [(0, 3), (1, 7), (2, 10), (3, 10)], [(35, 0), (36, 4), (37, 7), (38, 7)],
    ),
    ("selective_copying", "laptop"): (
        96, 11, [(6, 3), (9, 7), (12, 10), (13, 10)], [(86, 0), (87, 4), (88, 7), (89, 7)],
    ),
    ("selective_copying", "smoke"): (
        40, 11, [(6, 3), (13, 7), (21, 10), (25, 10)], [(35, 0), (36, 4), (37, 7), (38, 7)],
    ),
    ("selective_copying", "mamba"): (
        4112, 17, [(414, 3), (428, 10), (467, 15), (1574, 16)],
        [(4096, 0), (4097, 7), (4098, 12), (4099, 13)],
    ),
    ("mqar", "laptop"): (
        144, 108, [(0, 48), (1, 71), (2, 30), (3, 93)], [(72, 17), (74, 26), (76, 9), (78, 41)],
    ),
    ("mqar", "smoke"): (
        40, 32, [(0, 11), (1, 23), (2, 5), (3, 20)], [(12, 7), (14, 4), (20, 0), (26, 15)],
    ),
    ("mqar", "zoology"): (
        512, 8192, [(0, 77), (1, 5868), (2, 2671), (3, 5617)],
        [(128, 2154), (130, 2524), (132, 442), (134, 402)],
    ),
    ("needle", "laptop"): (128, 19, [(3, 3), (7, 12), (15, 3), (46, 17)], [(127, 0)]),
    ("needle", "smoke"): (40, 11, [(1, 3), (4, 7), (24, 8), (33, 7)], [(39, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("name, protocol", DRAWN)
def test_a_drawn_row(tmp_path, name, protocol):
    counts = ("task.n_train=1", "task.n_val=1", "task.n_test=1")
    task = task_of(protocol, name, tmp_path, *counts)
    length, vocab, first, scored = DRAWN[name, protocol]
    batch = task.collate(task.build("train"), np.array([0]))
    x, y = batch.x[0].tolist(), batch.y[0].tolist()
    assert (len(x), task.spec.vocab, batch.mask.all()) == (length, vocab, True)
    assert [(at, token) for at, token in enumerate(x) if token > 2][:4] == first
    labels = [(at, label) for at, label in enumerate(y) if label != -100]
    assert labels[:4] == scored
    # by the rule of the task
    if name == "mqar":
        value_of = dict(zip(x[0 : labels[0][0] : 2], x[1 : labels[0][0] : 2], strict=True))
        assert [value_of[x[at]] - vocab // 2 for at, _ in labels] == [label for _, label in labels]
    elif name == "needle":
        assert x[-1] == 2 and x[x.index(2) + 1] - 3 == labels[0][1]
    else:
        symbols = [token - 3 for token in x if token > 2]
        assert [label for _, label in labels] == symbols and len(symbols) == len(labels)
