"""One look for all plots of the pages: small SVG files that are the same each time they are made."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

PLOTS = Path(__file__).resolve().parents[2] / "docs" / "plots"
COLOURS = ("#1f6feb", "#d1242f", "#2da44e", "#bf8700", "#8250df", "#57606a")
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: smaller, searchable, sharp
    "svg.hashsalt": "holdfast",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#57606a",
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def figure(rows: int = 1, *, width: float = 7.2, height: float = 2.6) -> tuple[Any, Any]:
    """A figure with ``rows`` plots above each other that share their time axis; inches, ``height`` for each row."""
    plt.rcParams.update(SETTINGS)
    return plt.subplots(rows, 1, figsize=(width, height * rows), sharex=True, layout="constrained")


def save(made: Any, name: str) -> Path:
    """Write ``made`` as ``docs/plots/<name>.svg``, without a date, and say where."""
    PLOTS.mkdir(exist_ok=True)
    path = PLOTS / f"{name}.svg"
    made.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(made)
    # No white space at the ends of lines, so that the file is what an editor would save.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    print(f"{path.relative_to(PLOTS.parents[1])}: {path.stat().st_size} bytes")
    return path
