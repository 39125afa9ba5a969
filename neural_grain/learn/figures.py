"""The pictures of stage 3: the history of the training, samples of the model's work, and the audit.

Matplotlib is imported inside the functions, because it takes long and most of stage 3 does not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.files import atomic_write
from neural_grain.data.pictures import label_axes
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.learn.audit import AuditReport, AuditRow
from neural_grain.learn.auditor import band_fractions_column, renormalise
from neural_grain.learn.history import EpochScores, HeldOutScores
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import CONTROL_RANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLE_CONTROLS = (-3.0, -1.5, 0.0, 1.5, 3.0)  # octaves
HISTORY_PANELS = {  # title of each panel of training_history.png: the columns of training_history.csv that it shows
    "distance to natural tiles of the same grain (dB)": ("distance_texture", "distance_smooth", "held_out_distance"),
    "distance to the same sound with more or less noise (dB)": ("noise_texture", "noise_smooth", "held_out_noise"),
    "auditor: |measured - claimed| (octaves)": ("violation_texture", "violation_smooth", "held_out_violation"),
    "learning rate": ("learning_rate",),
}


class Sample(NamedTuple):
    """What a model makes of one tile.

    ``moved`` has the shape (5, n_mels, frames), the tile at each of SAMPLE_CONTROLS. ``texture_db`` and
    ``smooth_db``, of the shape (n_mels, frames), are the gains for one octave in each direction.
    """

    moved: np.ndarray
    texture_db: np.ndarray
    smooth_db: np.ndarray


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure as PNG in one atomic step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_history(path: Path, history: list[EpochScores], expander: HeldOutScores) -> None:
    """training_history.png: the scores of every epoch, and those of the expander that training started from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, columns) in zip(figure.subplots(2, 2).ravel(), HISTORY_PANELS.items(), strict=True):
        _draw_scores(axes, history, columns)
        if "distance" in title:
            reference = getattr(expander, columns[-1].removeprefix("held_out_"))
            axes.axhline(reference, color="0.4", linestyle="--", label="held out, plain expander")
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend()
    figure.suptitle(
        "Held-out distances should end below the plain expander's; if they rise, the library is too small. "
        "audit.png shows how exactly the slider moves grain",
        fontsize=10,
    )
    save_figure(figure, path)


def _draw_scores(axes: Axes, history: list[EpochScores], columns: tuple[str, ...]) -> None:
    """One line for each column of the history."""
    epochs = [row.epoch for row in history]
    marker = "." if len(epochs) < 3 else ""  # a line through one point would be invisible
    for column in columns:
        values = [getattr(row, column) for row in history]
        axes.plot(epochs, values, label=column.replace("_", " "), marker=marker)


def make_sample(model: GrainModel, x: Tensor, settings: SpectrogramSettings) -> Sample:
    """Move a tile (n_mels, frames) to five positions of the slider."""
    log_fractions = band_fractions_column(settings).to(x.device).log()
    controls = torch.tensor(SAMPLE_CONTROLS, device=x.device)
    with torch.no_grad():
        batch = x.expand(len(controls), -1, -1)
        moved = renormalise(batch, model(batch, controls), log_fractions, settings.dynamic_range_db).clamp(0, 1)
        patterns_db = settings.dynamic_range_db * model.pattern(batch, controls).cpu().numpy()
    return Sample(moved.cpu().numpy(), -patterns_db[0], patterns_db[-1])


def draw_sample(path: Path, model: GrainModel, x: Tensor, settings: SpectrogramSettings) -> None:
    """A tile at five positions of the slider, and the pattern that was added in each direction."""
    from matplotlib.figure import Figure

    sample = make_sample(model, x, settings)
    duration_s = x.shape[1] * settings.grain.hop_length / settings.grain.sample_rate_hz
    placement = {"aspect": "auto", "origin": "lower", "extent": (0, duration_s, 0, settings.n_mels)}
    names = [f"{control:+g}" for control in SAMPLE_CONTROLS]
    middle = len(names) // 2  # the tile itself, left of both rows
    rows = [[names[middle], *reversed(names[:middle]), "texture"], [names[middle], *names[middle + 1 :], "smooth"]]
    figure = Figure(figsize=(19, 6.5), layout="constrained")
    panels = figure.subplot_mosaic(rows)

    for name, control, picture in zip(names, SAMPLE_CONTROLS, sample.moved, strict=True):
        level_db = settings.dynamic_range_db * (picture - 1)
        image = panels[name].imshow(level_db, "magma", vmin=-settings.dynamic_range_db, vmax=0, **placement)
        direction = "smooth" if control > 0 else "texture"
        panels[name].set_title(f"{control:+.1f} ({direction})" if control else "0: the tile itself")
    figure.colorbar(image, ax=panels[names[middle]], label="level (dB under the loudest band)", location="left")

    limit_db = float(max(np.abs(sample.texture_db).max(), np.abs(sample.smooth_db).max())) or 1.0
    for name, pattern_db, title in (
        ("texture", sample.texture_db, "gain for one octave more texture"),
        ("smooth", sample.smooth_db, "gain for one octave smoother"),
    ):
        image = panels[name].imshow(pattern_db, "RdBu_r", vmin=-limit_db, vmax=limit_db, **placement)
        panels[name].set_title(f"pattern: {title}")
        figure.colorbar(image, ax=panels[name], label="gain (dB)")

    for axes in panels.values():
        label_axes(axes, settings)
        axes.set_xlabel("time (s)")
    save_figure(figure, path)


def draw_audit(path: Path, report: AuditReport) -> None:
    """audit.png: achieved octaves against requested octaves, one line for each held-out file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    ends = (-CONTROL_RANGE, CONTROL_RANGE)
    axes.plot(ends, ends, color="0.4", linestyle="--", label="the law: achieved = requested", zorder=3)
    for name in sorted({row.file for row in report.rows}):
        _draw_file(axes, [row for row in report.rows if row.file == name])
    axes.plot([], [], "o", mfc="none", color="0.3", label="beyond the file's reach")
    axes.set(xlabel="requested (octaves: - texture, + smooth)", ylabel="achieved (octaves)", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("\n".join(report.summary.verdict.split("; ")), fontsize=10)
    save_figure(figure, path)


def _draw_file(axes: Axes, rows: list[AuditRow]) -> None:
    """The line of one file, with circles at the positions beyond its reach."""
    requested = np.array([row.requested_octaves for row in rows])
    achieved = np.array([row.achieved_octaves for row in rows])
    is_beyond = np.array([not row.within_reach for row in rows])
    line = axes.plot(requested, achieved, alpha=0.6, linewidth=1)[0]
    axes.plot(requested[is_beyond], achieved[is_beyond], "o", mfc="none", color=line.get_color())
