"""What a task of labelled data has built."""

from pathlib import Path
from typing import Any

from lra.data.labelled import Labelled


def rows(task: Labelled, split: str) -> list[tuple[Any, int]]:
    """Every x and y of a split."""
    data = task.build(split)
    return list(zip(data["x"], data["y"], strict=True))


def nothing_built(root: Path) -> bool:
    """Whether no task has data under that root; a lock is no data."""
    return not [path for path in root.glob("*/*") if path.is_dir()]
