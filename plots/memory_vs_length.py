"""Peak memory against the length, measured and predicted, beside fused and naive attention."""

from collections.abc import Sequence
from pathlib import Path

from lra.results.packs import device_slug
from lra.results.schema import LengthRow
from plots.family_panels import Quantity, chart
from plots.length_entries import LEVELS, PASSES, View
from plots.style import save, style


def measured(row: LengthRow) -> tuple[float, float, float] | None:
    """Peak MiB without a band: live bytes are counted, not timed."""
    return (row.peak_mem_mib,) * 3 if row.peak_mem_mib else None


MEMORY = Quantity("peak MiB", measured, lambda row: row.pred_mem_mib)


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``memory_vs_length_<level>_<dtype>_<pass>`` as .png and .svg in the folder of each device."""
    written = []
    for view in views:
        for pass_ in view.passes:
            shown = view.of_pass(pass_)
            known = any(r.peak_mem_mib or r.pred_mem_mib for one in shown for r in one.rows)
            if pass_ == "decode" or not known:
                continue
            title = f"{PASSES[pass_].capitalize()}, {LEVELS[view.setting.level]}: peak memory"
            said = "bytes counted, not sampled: n = 1"
            with style():
                figure = chart(view, shown, MEMORY, title, said)
                path = out / device_slug(view.device) / f"memory_vs_length_{view.suffix}_{pass_}"
                written += save(figure, path)
    return written


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("memory_vs_length"))
