"""What stands below every table: where the numbers come from and how to read them."""

from collections.abc import Callable, Iterable

from lra.results.schema import RunRow
from plots.entries import TASK_TITLES, Group, baselines


def conditions(group: Group) -> list[str]:
    """Device, protocol, tier of the data, dates and versions: what a number needs to be one."""
    rows = [row for entry in group.entries for row in entry.rows]
    days = sorted({row.date[:10] for row in rows if row.date})
    tiers = "; ".join(
        f"{TASK_TITLES.get(task, task)} {_all(group_rows, lambda row: row.tier)}"
        for task in group.tasks
        if (group_rows := [row for entry in group.of_task(task) for row in entry.rows])
    )
    parts = [
        f"Measured on {group.device}",
        f"threads: {_all(rows, lambda row: row.n_threads)}",
        f"precision: {_all(rows, lambda row: row.precision)}",
        f"protocol: {group.protocol}",
        f"rules: {_all(rows, lambda row: row.label)}",
        f"data: {tiers}",
        f"date: {' to '.join(dict.fromkeys((days[0], days[-1]))) if days else 'unknown'}",
        f"versions: {_all(rows, lambda row: row.versions)}",
        f"code: {_all(rows, lambda row: row.git_sha)}",
    ]
    return ["; ".join(parts) + "."]


def reading(group: Group) -> list[str]:
    """How to read the cells of the accuracy table."""
    notes = [
        "Measured cells: mean ± half the 95 % interval over seeds (Student's t below ten seeds), "
        "then the number of seeds and how the others ended; — is not measured."
    ]
    if any(baselines(group.of_task(task)) for task in group.tasks):
        notes.append(
            "left chance: seeds whose lower 95 % binomial bound is above every trivial rule."
        )
    notes.append("steps/s, peak MiB: medians over seeds of whole training steps.")
    one_way = {entry.name for entry in group.entries if entry.first.causal}
    if one_way and len(one_way) < len({entry.name for entry in group.entries}):
        notes.append(
            f"From left to right only, the others both ways: {', '.join(sorted(one_way))}."
        )
    if any(entry.degenerate for entry in group.entries):
        notes.append("† dense softmax attention at this length and these knobs.")
    return notes


def _all(rows: Iterable[RunRow], value: Callable[[RunRow], object]) -> str:
    """The distinct values, or how many there are if they would not fit."""
    found = sorted({str(v) for row in rows if (v := value(row)) not in (None, "")})
    if not found:
        return "unknown"
    return ", ".join(found) if len(found) <= 3 else f"{len(found)} different"
