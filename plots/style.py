"""One look for all figures: a colour for each family, sizes that a column can carry."""

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lra.results.csv_io import write_bytes

# Okabe and Ito's eight colours, told apart by colour-blind readers, and grey
FAMILY_COLOURS = {
    "exact": "#000000",
    "sparse": "#E69F00",
    "hashed": "#F0E442",
    "low_rank": "#0072B2",
    "linear": "#D55E00",
    "recurrent": "#56B4E9",
    "ssm": "#009E73",
    "conv": "#CC79A7",
    "whole_model": "#888888",
}
# as a thin line on white the yellow of areas is too pale
LINE_COLOURS = {**FAMILY_COLOURS, "hashed": "#B8A800"}
# colour and marker of each backend, the same in every figure
BACKENDS = {
    "reference": ("#888888", "x"),
    "eager": ("#000000", "o"),
    "compile": ("#0072B2", "D"),
    "sdpa": ("#E69F00", "s"),
    "flex": ("#CC79A7", "p"),
    "triton": ("#D55E00", "^"),
    "cuda": ("#009E73", "v"),
    "flash_attn": ("#56B4E9", "P"),
    "xformers": ("#B8A800", "X"),
    "fla": ("#56B4E9", "*"),
    "mamba_ssm": ("#56B4E9", "h"),
    "causal_conv1d": ("#56B4E9", "<"),
}
RC: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.hashsalt": "lra",
    # a dollar in a name is a dollar
    "text.parse_math": False,
}


def backend_look(name: str) -> tuple[str, str]:
    """Colour and marker of a backend; an unknown one looks like no other."""
    return BACKENDS.get(name, ("#7F3C8D", "d"))


def style() -> Any:
    """The context in which a figure is drawn and saved."""
    return rc_context(RC)


def canvas(inches: tuple[float, float]) -> tuple[Figure, FigureCanvasAgg]:
    """An empty figure whose display coordinates are points, and what measures text in it."""
    figure = Figure(figsize=inches, dpi=72)
    return figure, FigureCanvasAgg(figure)


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes ``path`` with .png and .svg; the same figure gives the same bytes.

    Raises:
        UserError: the folder cannot be written.
    """
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], metadata=metadata)
        written.append(write_bytes(path.with_name(path.name + suffix), content.getvalue()))
    return written
