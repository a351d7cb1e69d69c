"""The picture of benchmarks/http.py."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.http import Figures


def draw(found: Mapping[str, "Figures"]) -> None:
    """Requests a second of each way, as bars, into docs/plots/http.svg."""
    style: Any = importlib.import_module("scripts.plots.style")  # a script's module, which is not typed
    made, axes = style.figure(height=0.5 * len(found) + 0.8)
    titles = list(found)
    rates = [found[title].rate for title in titles]
    colours = [style.COLOURS[0] if "Holdfast" in title else style.COLOURS[-1] for title in titles]
    bars = axes.barh(titles, rates, color=colours, height=0.62)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("requests a second, one worker")
    axes.set_xlim(0, max(rates) * 1.12)
    style.save(made, "http")
