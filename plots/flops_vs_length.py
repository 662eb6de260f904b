"""Operations of a call against the length, a panel for each family, beside dense attention."""

from collections.abc import Sequence
from pathlib import Path

from lra.results.packs import device_slug
from lra.results.schema import LengthRow
from plots.family_panels import Quantity, chart
from plots.length_entries import LEVELS, PASSES, View
from plots.style import save, style


def counted(row: LengthRow) -> tuple[float, float, float] | None:
    """Billions of operations without a band; none where some of them are not counted."""
    return (row.gflop,) * 3 if row.gflop and row.flop_coverage in (None, 1.0) else None


def uncounted(row: LengthRow) -> str | None:
    """How much of it is not counted."""
    if row.gflop == 0:
        return "not drawn, no operation counted"
    if row.flop_coverage is None or row.flop_coverage == 1:
        return None
    return f"not drawn, {row.flop_coverage:.0%} of it counted"


FLOPS = Quantity("GFLOP a call", counted, doubt=uncounted)


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``flops_vs_length_<level>_<dtype>_<pass>`` as .png and .svg in the folder of each device."""
    written = []
    for view in views:
        # clipping and update are no mixing: a training step shows nothing more
        for pass_ in [p for p in view.passes if p in ("forward", "forward_backward")]:
            shown = view.of_pass(pass_)
            if not any(counted(row) for one in shown for row in one.rows):
                continue
            title = f"{PASSES[pass_].capitalize()}, {LEVELS[view.setting.level]}: operations"
            said = "operations counted by formula, where all of them are: n = 1"
            with style():
                figure = chart(view, shown, FLOPS, title, said)
                path = out / device_slug(view.device) / f"flops_vs_length_{view.suffix}_{pass_}"
                written += save(figure, path)
    return written


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("flops_vs_length"))
