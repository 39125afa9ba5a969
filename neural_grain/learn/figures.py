"""The pictures of stage 3: the history of the training, samples of the model's work, and the audit.

Matplotlib is imported inside the functions, because it takes long and most of stage 3 does not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from neural_grain.data.pictures import label_axes, save_figure
from neural_grain.dsp.settings import CELL_FRAMES, NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.audit import AuditReport, AuditRow
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.history import EpochScores, HeldOutScores
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import CONTROL_RANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE_CONTROLS = (-3.0, -1.5, 0.0, 1.5, 3.0)  # octaves
HISTORY_PANELS = {  # title of each panel of training_history.png: the columns of training_history.csv that it shows
    "texture given back: distance to the truth (dB)": ("distance", "held_out_distance"),
    "correction of the typical texture by the tones (dB)": ("correction",),
    "auditor: |measured - claimed| (octaves)": ("violation_texture", "violation_smooth", "held_out_violation"),
    "learning rate": ("learning_rate",),
}


class Sample(NamedTuple):
    """What a model makes of one tile, in dB below the loudest band."""

    tones: np.ndarray  # (n_mels, cells)
    texture: np.ndarray  # (5, n_mels, cells), the texture at each of SAMPLE_CONTROLS
    pattern: np.ndarray  # (n_mels, cells), the texture that takes part when a sound gets more
    generated: np.ndarray  # the same for the tones alone


def draw_history(path: Path, history: list[EpochScores], one_gain: HeldOutScores) -> None:
    """training_history.png: the scores of every epoch, and those of what works without a model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, columns) in zip(figure.subplots(2, 2).ravel(), HISTORY_PANELS.items(), strict=True):
        _draw_scores(axes, history, columns)
        if "distance" in title:
            axes.axhline(one_gain.distance, color="0.4", linestyle="--", label="held out, without a model")
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend(fontsize=8)
    figure.suptitle(
        "The held-out distance should end below that of no model; if it rises, the library is too small. "
        "audit.png shows how exactly the slider moves grain",
        fontsize=9,
    )
    save_figure(figure, path)


def _draw_scores(axes: Axes, history: list[EpochScores], columns: tuple[str, ...]) -> None:
    """One line for each column of the history."""
    epochs = [row.epoch for row in history]
    marker = "." if len(epochs) < 3 else ""  # a line through one point would be invisible
    for column in columns:
        values = [getattr(row, column) for row in history]
        axes.plot(epochs, values, label=column.replace("_", " "), marker=marker)


def make_sample(model: GrainModel, tiles: Tiles, index: int) -> Sample:
    """Move a tile to five positions of the slider."""
    tones, texture = (levels[index : index + 1] for levels in (tiles.tones, tiles.texture))
    controls = torch.tensor(SAMPLE_CONTROLS, device=tones.device)
    with torch.no_grad():
        n = len(controls)
        moved = model(tones.expand(n, -1, -1), texture.expand(n, -1, -1), controls) / NEPER_PER_DB
        pattern = model.pattern(tones, texture)[0] / NEPER_PER_DB
        generated = model.pattern(tones, torch.full_like(texture, model.floor))[0] / NEPER_PER_DB
    return Sample(*(each.cpu().numpy() for each in (tones[0] / NEPER_PER_DB, moved, pattern, generated)))


def draw_sample(path: Path, model: GrainModel, tiles: Tiles, settings: SpectrogramSettings) -> None:
    """The tile whose texture is the median in level: its tones, its texture at five positions, and the pattern.

    The pattern is that of the tile without its texture, too: what the model would generate for its tones.
    """
    from matplotlib.figure import Figure

    levels = tiles.texture.mean((1, 2))
    sample = make_sample(model, tiles, int(levels.argsort()[len(levels) // 2]))
    duration_s = sample.tones.shape[1] * CELL_FRAMES * settings.grain.hop_length / settings.grain.sample_rate_hz
    placement = {"aspect": "auto", "origin": "lower", "extent": (0, duration_s, 0, settings.n_mels)}
    figure = Figure(figsize=(19, 6.5), layout="constrained")
    names = ["tones", *(f"{control:+g}" for control in SAMPLE_CONTROLS)]
    panels = figure.subplot_mosaic([names, ["levels"] * 3 + ["pattern"] * 3])

    for name, level_db in zip(names, (sample.tones, *sample.texture), strict=True):
        image = panels[name].imshow(level_db, "magma", vmin=-settings.dynamic_range_db, vmax=0, **placement)
        panels[name].set_title("tones, which stay" if name == "tones" else f"texture at {name}")
        label_axes(panels[name], settings)
        panels[name].set_xlabel("time (s)")
    figure.colorbar(image, ax=panels[names[-1]], label="level (dB under the loudest band)")

    bands = np.arange(settings.n_mels) + 0.5
    panels["levels"].plot(bands, sample.tones.mean(1), "k", label="tones")
    for control, level_db in zip(SAMPLE_CONTROLS, sample.texture, strict=True):
        panels["levels"].plot(bands, level_db.mean(1), label=f"texture at {control:+g}")
    panels["levels"].set(title="mean level of each band", ylabel="dB under the loudest band")
    panels["pattern"].plot(bands, sample.pattern.mean(1), label="of the tile")
    panels["pattern"].plot(bands, sample.generated.mean(1), label="of its tones alone: what is generated")
    panels["pattern"].set(title="pattern: the texture that takes part when a sound gets more", ylabel="dB")
    for name in ("levels", "pattern"):
        label_axes(panels[name], settings, along="x")
        panels[name].grid(alpha=0.3)
        panels[name].legend(fontsize=8)
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
