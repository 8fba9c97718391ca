"""Loss curves as pictures, where matplotlib is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path


def plot(path: Path) -> Path | None:
    """The curves of ``NAME.json`` to ``NAME.png`` beside it; None where there is nothing to draw or to draw with."""
    curve = json.loads(path.read_text())
    if not curve or find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", title=path.stem)
    names = sorted({name for point in curve for name in point} - {"step"})
    for name in names:
        points = [(point["step"], point[name]) for point in curve if name in point]
        axes.plot(*zip(*points, strict=True), label=name)
    axes.legend()
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure)
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=110)
    return target
