"""The table of the LRA paper's Table 1 kind: measured beside published, per device and protocol."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from lra.results.published import reference
from lra.results.schema import FAMILIES, PublishedRow
from lra.results.statistics import interquartile_mean
from plots.entries import TASK_TITLES, Entry, Group, baselines
from plots.notes import conditions, reading
from plots.sources import Sources
from plots.tables import MISSING, Table, number, write_tables

FIVE = ("listops", "text", "retrieval", "image", "pathfinder")
AVERAGES = {"avg5": FIVE, "avg6": (*FIVE, "path_x")}
AVERAGE_TITLES = {
    "avg5": "Avg of 5 (no Path-X)",
    "avg6": "Avg of 6 (failed Path-X = 50)",
}
COSTS = ("left chance", "steps/s", "peak MiB", "parameters")
CSV_COLUMNS = (
    "device", "protocol", "task", "tier", "model", "family", "degenerate", "seeds", "failed",
    "test_acc_mean", "test_acc_low", "test_acc_high", "test_acc_iqm", "test_acc_iqm_low",
    "test_acc_iqm_high", "left_chance", "published_acc", "published_status", "published_source",
    "steps_per_s", "peak_mem_mib", "n_params",
)  # fmt: skip


def write(groups: Sequence[Group], published: Sequence[PublishedRow], out: Path) -> list[Path]:
    """``lra_table_<protocol>`` as .md, .tex and .csv in the folder of each device."""
    written = []
    for group in groups:
        path = group.folder(out) / f"lra_table_{group.protocol}"
        tables = build(group, published)
        written += write_tables(path, tables, CSV_COLUMNS, records(group, published))
    return written


def build(group: Group, published: Sequence[PublishedRow]) -> list[Table]:
    """Accuracy of all models and tasks; of several tasks a second table with the costs."""
    sources = Sources()
    models = _models(group)
    averages = [a for a in AVERAGES if any(_average(m, a) is not None for m in models.values())]
    one_task = len(group.tasks) == 1
    header = ["model", "family"]
    for task in [*group.tasks, *averages]:
        header += [TASK_TITLES.get(task) or AVERAGE_TITLES.get(task, task), "published"]
    rows = [_baseline_row(group, name, averages, len(COSTS) * one_task) for name in _rules(group)]
    for name, tasks in models.items():
        any_entry = next(iter(tasks.values()))
        row = [name + " †" * any_entry.degenerate, any_entry.first.family.replace("_", " ")]
        for task in group.tasks:
            ours = reference(published, any_entry.first.model, task)
            row += [_measured(tasks.get(task)), sources.cite(ours)]
        for average in averages:
            theirs = reference(published, any_entry.first.model, average)
            row += [_per_cent(_average(tasks, average)), sources.cite(theirs)]
        rows.append(row + (_costs(any_entry) if one_task else []))
    title = f"Test accuracy in per cent, protocol {group.protocol}, {group.device}"
    notes = [*conditions(group), *reading(group), _averaging(averages), *sources.notes()]
    table = Table(title, header + list(COSTS) * one_task, rows, notes)
    return [table] if one_task else [table, _cost_table(group)]


def records(group: Group, published: Sequence[PublishedRow]) -> Iterator[list[object]]:
    """The same, one model and task a line, values unrounded; empty where there is none."""
    for task in group.tasks:
        of_task = group.of_task(task)
        tier = of_task[0].first.tier
        for rule, share in baselines(of_task).items():
            yield [group.device, group.protocol, task, tier, rule, "trivial", *[None] * 3, share,
                   *[None] * 12]  # fmt: skip
        for entry in of_task:
            theirs, acc = reference(published, entry.first.model, task), entry.accuracy
            middle = interquartile_mean(entry.accuracies) if acc else None
            yield [
                group.device, group.protocol, task, entry.first.tier, entry.name,
                entry.first.family, entry.degenerate, len(entry.accuracies), _failed(entry),
                acc and acc.mean, acc and acc.low, acc and acc.high,
                middle and middle.mean, middle and middle.low, middle and middle.high,
                entry.left_chance and entry.left_chance[0],
                None if theirs is None or theirs.value is None else theirs.value / 100,
                theirs and theirs.status, theirs and theirs.source,
                entry.steps_per_s, entry.peak_mem_mib, entry.n_params,
            ]  # fmt: skip
    for name, tasks in _models(group).items():
        family = next(iter(tasks.values())).first.family
        for average in AVERAGES:
            if (mean := _average(tasks, average)) is not None:
                yield [group.device, group.protocol, average, None, name, family, *[None] * 3, mean,
                       *[None] * 12]  # fmt: skip


def _models(group: Group) -> dict[str, dict[str, Entry]]:
    """Entries by name and task, in the order of families."""
    found: dict[str, dict[str, Entry]] = {}
    for entry in sorted(group.entries, key=lambda e: (FAMILIES.index(e.first.family), e.name)):
        found.setdefault(entry.name, {})[entry.first.task] = entry
    return found


def _rules(group: Group) -> list[str]:
    return list(
        dict.fromkeys(rule for task in group.tasks for rule in baselines(group.of_task(task)))
    )


def _baseline_row(group: Group, name: str, averages: Sequence[str], costs: int) -> list[str]:
    row = [name, "trivial"]
    for task in group.tasks:
        row += [_per_cent(baselines(group.of_task(task)).get(name)), MISSING]
    return row + [MISSING] * (2 * len(averages) + costs)


def _measured(entry: Entry | None) -> str:
    """``44.1 ± 1.2 (3)``; with failed seeds ``44.1 (1; 2 nan)``; without any result ``oom (3)``."""
    if entry is None:
        return MISSING
    failed = _failed(entry)
    if entry.accuracy is None:
        return failed
    half = entry.accuracy.half_width
    spread = "" if half is None else f" ± {100 * half:.1f}"
    seeds = f"{entry.accuracy.n}; {failed}" if failed else str(entry.accuracy.n)
    return f"{100 * entry.accuracy.mean:.1f}{spread} ({seeds})"


def _failed(entry: Entry) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(entry.failures.items()))


def _average(tasks: dict[str, Entry], average: str) -> float | None:
    """Mean over the average's tasks, or None where one is not measured."""
    values = []
    for task in AVERAGES[average]:
        entry = tasks.get(task)
        if entry is not None and entry.accuracy is not None:
            values.append(entry.accuracy.mean)
        elif entry is not None and task == "path_x":
            values.append(0.5)
        else:
            return None
    return fmean(values)


def _costs(entry: Entry) -> list[str]:
    left = entry.left_chance
    return [
        MISSING if left is None else f"{left[0]}/{left[1]}",
        number(entry.steps_per_s, 1),
        number(entry.peak_mem_mib, 1),
        number(entry.n_params, 0),
    ]


def _cost_table(group: Group) -> Table:
    rows = [
        [entry.name, TASK_TITLES.get(task, task), *_costs(entry)]
        for task in group.tasks
        for entry in group.of_task(task)
    ]
    title = f"Speed and memory, protocol {group.protocol}, {group.device}"
    return Table(title, ["model", "task", *COSTS], rows)


def _per_cent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f}"


def _averaging(averages: Sequence[str]) -> str:
    if not averages:
        return (
            "No averages: the one of five needs ListOps, Text, Retrieval, Image and Pathfinder, "
            "the one of six Path-X too."
        )
    return "The two averages are not comparable with each other."


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("lra_table"))
