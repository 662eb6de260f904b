"""Time of a call against the length, a panel for each family, beside fused and naive attention."""

from collections.abc import Sequence
from pathlib import Path

from lra.results.curves import doubtful
from lra.results.packs import device_slug
from lra.results.schema import LengthRow
from plots.family_panels import Quantity, chart
from plots.length_entries import LEVELS, PASSES, View
from plots.length_notes import samples
from plots.style import save, style


def measured(row: LengthRow) -> tuple[float, float, float] | None:
    """Median and 20-80 % band in milliseconds; none of a time that cannot be true."""
    if row.status != "ok" or not row.median_ms or doubtful(row):
        return None
    return row.median_ms, row.p20_ms or row.median_ms, row.p80_ms or row.median_ms


def doubt(row: LengthRow) -> str | None:
    """What is doubtful about a time, without what is about memory and operations."""
    parts = (row.reason or "").split("; ")
    return "; ".join(part for part in parts if not part.startswith("no ")) or None


TIME = Quantity("ms a call", measured, doubt=doubt)


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``time_vs_length_<level>_<dtype>_<pass>`` as .png and .svg in the folder of each device."""
    written = []
    for view in views:
        for pass_ in view.passes:
            shown = view.of_pass(pass_)
            if pass_ == "decode" or not any(measured(row) for one in shown for row in one.rows):
                continue
            title = f"{PASSES[pass_].capitalize()}, {LEVELS[view.setting.level]}: time"
            said = f"median and 20-80 % band of {samples(shown)} calls"
            with style():
                figure = chart(view, shown, TIME, title, said)
                path = out / device_slug(view.device) / f"time_vs_length_{view.suffix}_{pass_}"
                written += save(figure, path)
    return written


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("time_vs_length"))
