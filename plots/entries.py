"""Rows to entries: one entry is one model on one task, with all its seeds."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

from lra.errors import UserError, nearest
from lra.results.collect import read_all
from lra.results.packs import device_slug
from lra.results.schema import FAMILIES, RunRow
from lra.results.statistics import Estimate, left_chance, mean_interval

TASK_TITLES = {
    "listops": "ListOps",
    "text": "Text",
    "retrieval": "Retrieval",
    "image": "Image",
    "pathfinder": "Pathfinder",
    "path_x": "Path-X",
    "path_256": "Path-256",
}
# what makes two rows of one model two entries; named beside the model where it differs
VARIANT = (
    "mixer", "block", "backbone", "mixer_knobs", "length", "batch", "causal", "tier", "label",
    "backend", "precision", "n_threads",
)  # fmt: skip
Variant = tuple[object, ...]


@dataclass(frozen=True)
class Entry:
    """A model's seeds on one task, protocol and device; ``name`` tells its variants apart."""

    name: str
    rows: tuple[RunRow, ...]

    @property
    def first(self) -> RunRow:
        """Any of the rows, for what they share: model, family, task, protocol, device."""
        return self.rows[0]

    @cached_property
    def finished(self) -> list[RunRow]:
        return [r for r in self.rows if r.status == "ok" and r.test_acc is not None]

    @cached_property
    def accuracies(self) -> list[float]:
        return [row.test_acc for row in self.finished if row.test_acc is not None]

    @cached_property
    def accuracy(self) -> Estimate | None:
        """Mean test accuracy over the seeds that finished; None if none did."""
        return mean_interval(self.accuracies) if self.accuracies else None

    @cached_property
    def failures(self) -> Counter[str]:
        """How many seeds ended otherwise, by status."""
        return Counter(row.status for row in self.rows if row not in self.finished)

    @cached_property
    def left_chance(self) -> tuple[int, int] | None:
        """(seeds above every trivial rule, seeds tested), or None where it cannot be said."""
        tested = [
            left_chance(row.test_acc, row.n_test, row.chance_acc, row.trivial_acc)
            for row in self.finished
            if row.test_acc is not None and row.n_test
        ]
        return (sum(tested), len(tested)) if tested else None

    def middle(self, value: Callable[[RunRow], float | None]) -> float | None:
        """Median over the finished seeds of what was measured; None where nothing was."""
        values = [v for row in self.finished if (v := value(row)) is not None]
        return median(values) if values else None

    @property
    def steps_per_s(self) -> float | None:
        return self.middle(lambda row: row.steps_per_s)

    @property
    def peak_mem_mib(self) -> float | None:
        return self.middle(lambda row: row.peak_mem_mib)

    @property
    def n_params(self) -> float | None:
        return self.middle(lambda row: row.n_params)

    @property
    def degenerate(self) -> bool:
        """Whether its knobs make it plain dense attention at this length."""
        return any(row.degenerate for row in self.rows)


@dataclass(frozen=True)
class Group:
    """All entries of one device and protocol."""

    device: str
    protocol: str
    entries: tuple[Entry, ...]

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the LRA table, others after them."""
        order = list(TASK_TITLES)
        found = {entry.first.task for entry in self.entries}
        return sorted(found, key=lambda t: (order.index(t) if t in order else len(order), t))

    def of_task(self, task: str) -> list[Entry]:
        """Entries of a task, by family and name."""
        return [entry for entry in self.entries if entry.first.task == task]

    def folder(self, out: Path) -> Path:
        return out / device_slug(self.device)


def load(results: Path, protocol: str | None = None, device: str | None = None) -> list[Group]:
    """The groups of all rows in ``results``, or those of one protocol or device.

    Args:
        device: its name, or the name of its folder in ``results/measured``.

    Raises:
        UserError: no rows, rows that do not fit the schema, or an unknown protocol or device.
    """
    if not results.is_dir():
        raise UserError(f"no folder {results}: name one with --results")
    rows: list[RunRow] = [row for row in read_all(results, "runs") if row.status != "interrupted"]
    if not rows:
        raise UserError(
            f"no results in {results}: first `python run.py model=... task=...`, then "
            "`python -m lra collect`"
        )
    if protocol is not None:
        rows = _only(rows, protocol, lambda row: row.protocol, "protocol")
    if device is not None:
        by_slug = device not in {row.device for row in rows}
        rows = _only(
            rows, device, lambda r: device_slug(r.device) if by_slug else r.device or "", "device"
        )
    groups: dict[tuple[str, str], list[RunRow]] = defaultdict(list)
    for row in rows:
        groups[row.device or "unknown device", row.protocol].append(row)
    return [Group(*key, tuple(entries(groups[key]))) for key in sorted(groups)]


def entries(rows: Iterable[RunRow]) -> list[Entry]:
    """Rows of one device and protocol as entries, by task, family and name."""
    by_model: dict[str, dict[str, list[RunRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_model[row.model][row.task].append(row)
    found = []
    for model, by_task in by_model.items():
        variants = [pair for seeds in by_task.values() for pair in _variants(seeds).items()]
        # a column that tells two entries of one task apart is named in all tasks
        named = [
            i
            for i, _ in enumerate(VARIANT)
            if any(len({v[i] for v in _variants(seeds)}) > 1 for seeds in by_task.values())
        ]
        for variant, seeds in variants:
            differing = (_describe(i, variant, [v for v, _ in variants]) for i in named)
            found.append(Entry(" ".join([model, *differing]), tuple(seeds)))
    return sorted(found, key=lambda e: (e.first.task, FAMILIES.index(e.first.family), e.name))


def baselines(entries: Sequence[Entry]) -> dict[str, float]:
    """Test accuracy of chance and of trivial rules on one task, by name, lowest first."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in (row for entry in entries for row in entry.rows):
        if row.chance_acc is not None:
            values["chance"].append(row.chance_acc)
        if row.majority_acc is not None:
            values["majority"].append(row.majority_acc)
        if row.trivial_acc is not None and row.trivial_name != "majority":
            values[(row.trivial_name or "trivial rule").replace("_", " ")].append(row.trivial_acc)
    return dict(sorted(((name, fmean(v)) for name, v in values.items()), key=lambda item: item[1]))


def _only(
    rows: list[RunRow], wanted: str, value: Callable[[RunRow], str], kind: str
) -> list[RunRow]:
    found = [row for row in rows if value(row) == wanted]
    if not found:
        raise nearest(wanted, {value(row) for row in rows}, kind=kind)
    return found


def _variants(rows: Sequence[RunRow]) -> dict[Variant, list[RunRow]]:
    """A model's rows of one task by variant; what a failed row does not know fits any."""
    found: dict[Variant, list[RunRow]] = {}
    for row in sorted(rows, key=lambda row: row.status != "ok"):
        variant = tuple(getattr(row, column) for column in VARIANT)
        known = (
            other
            for other in found
            if all(mine in (None, its) for mine, its in zip(variant, other, strict=True))
        )
        found.setdefault(next(known, variant), []).append(row)
    return found


def _describe(i: int, variant: Variant, variants: Sequence[Variant]) -> str:
    """What tells a variant from its model's others in one column; of knobs, those that differ."""
    if VARIANT[i] != "mixer_knobs":
        return f"{VARIANT[i]}={variant[i]}"
    mine, all_knobs = _knobs(variant[i]), [_knobs(other[i]) for other in variants]
    names = sorted({name for knobs in all_knobs for name in knobs})
    return " ".join(
        f"{name}={mine.get(name)}"
        for name in names
        if any(knobs.get(name) != mine.get(name) for knobs in all_knobs)
    )


def _knobs(text: object) -> dict[str, object]:
    """Knobs by name; as one text where they are not those of a single mixer."""
    try:
        knobs = json.loads(str(text))
    except ValueError:
        knobs = None
    return knobs if isinstance(knobs, dict) else {"knobs": text}
