"""Time of one token more and size of the state, against the tokens before it."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lra.results.packs import device_slug
from lra.results.schema import FAMILIES, LengthRow
from plots.family_panels import Quantity, family_lines, legend, markers, reference_lines
from plots.length_entries import DECODING, LEVELS, Series, View
from plots.length_notes import conditions, notes, samples
from plots.length_panels import draw
from plots.lines import Panel
from plots.style import save, style
from plots.time_vs_length import doubt, measured


def state(row: LengthRow) -> tuple[float, float, float] | None:
    """MiB of state, without a band."""
    return (row.state_mib,) * 3 if row.state_mib else None


COLUMNS = (
    Quantity("ms a token", measured, doubt=doubt),
    Quantity("state, MiB", state),
)


def write(views: Sequence[View], out: Path) -> list[Path]:
    """``decode_vs_length_<level>_<dtype>`` as .png and .svg in the folder of each device."""
    written = []
    for view in views:
        shown = view.of_pass("decode")
        decoding = [one for one in shown if one.timed]
        if decoding:
            with style():
                name = f"decode_vs_length_{view.suffix.removesuffix(DECODING)}"
                path = out / device_slug(view.device) / name
                written += save(chart(view, shown, decoding), path)
    return written


def chart(view: View, shown: Sequence[Series], decoding: Sequence[Series]) -> Figure:
    """A row of panels for each family, time on the left and state on the right."""
    looks = markers(view)
    panels = []
    for family in FAMILIES:
        row = [
            Panel(
                family.replace("_", " "),
                [*reference_lines(view, decoding, quantity),
                 *family_lines(view, decoding, quantity, family, looks)],
                quantity.unit,
            )
            for quantity in COLUMNS
        ]  # fmt: skip
        if any(not line.reference for panel in row for line in panel.lines):
            panels.append(row)
    if not panels:
        panels = [[Panel("", reference_lines(view, decoding, q), q.unit) for q in COLUMNS]]
    said = f"median and 20-80 % band of {samples(decoding)} tokens"
    lines = [line for row in panels for panel in row for line in panel.lines]
    without = [one for one in shown if all(row.status == "unsupported" for row in one.rows)]
    below = notes(view, [one for one in shown if one not in without], measured, doubt)
    stateless = [
        one.name.replace("_", " ") for one in decoding
        if any(row.status == "ok" and state(row) is None for row in one.rows)
    ]  # fmt: skip
    if stateless:
        below.append(f"State empty or not known at some lengths: {', '.join(stateless)}.")
    if without:
        systems = f"{len(without)} system{'s' * (len(without) > 1)}"
        below.append(f"Without a state to decode with: {systems}.")
    title = f"One token after N others, {LEVELS[view.setting.level]}: time and state"
    return draw(
        title, conditions(view, said), panels, legend(lines), below, share="col", labels=True
    )


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("decode_vs_length"))
