"""TODO"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.files import atomic_write
from neural_grain.data.pictures import label_axes
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.learn.audit import AuditRow
from neural_grain.learn.auditor import band_fractions_column, renormalise
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import CONTROL_RANGE

SAMPLE_CONTROLS = (-3.0, -1.5, 0.0, 1.5, 3.0)
HISTORY_PANELS = {
    "distance to natural tiles of the same grain (dB)": ("distance_texture", "distance_smooth", "held_out_distance"),
    "distance to the same sound with more or less noise (dB)": ("noise_texture", "noise_smooth", "held_out_noise"),
    "auditor: |measured - claimed| (octaves)": ("violation_texture", "violation_smooth", "held_out_violation"),
    "learning rate": ("learning_rate",),
}


def save_figure(figure, path: Path) -> None:
    """Write a matplotlib figure as PNG under its final name only when it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_history(path: Path, history: list[EpochScores], expander: dict[str, float]) -> None:
    """training_history.png: what the referees said, epoch by epoch, and of the ``expander`` that training began from."""
    from matplotlib.figure import Figure

    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, (title, names) in zip(panels.ravel(), HISTORY_PANELS.items(), strict=True):
        for name in names:
            axes.plot(
                epochs,
                [getattr(row, name) for row in history],
                label=name.replace("_", " "),
                marker="." if len(epochs) < 3 else "",
            )
        if "distance" in title:
            axes.axhline(expander[names[-1]], color="0.4", linestyle="--", label="held out, plain expander")
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.suptitle(
        "Held-out distances should end below the plain expander's; if they rise, the library is too small. "
        "How well the law is kept: audit.png",
        fontsize=10,
    )
    save_figure(figure, path)


def draw_sample(path: Path, model: GrainModel, x: Tensor, settings: SpectrogramSettings) -> None:
    """A tile at five positions of the slider, and the pattern that was added in each direction."""
    from matplotlib.figure import Figure

    log_shares = band_fractions_column(settings).to(x.device).log()
    controls = torch.tensor(SAMPLE_CONTROLS, device=x.device)
    with torch.no_grad():
        batch = x.expand(len(controls), -1, -1)
        moved = renormalise(batch, model(batch, controls), log_shares, settings.dynamic_range_db).clamp(0, 1).cpu()
        patterns_db = settings.dynamic_range_db * model.pattern(batch, controls).cpu().numpy()
    duration_s = x.shape[1] * settings.grain.hop_length / settings.grain.sample_rate_hz
    where = {"aspect": "auto", "origin": "lower", "extent": (0, duration_s, 0, settings.n_mels)}
    names = [f"{control:+g}" for control in SAMPLE_CONTROLS]
    middle = len(names) // 2
    rows = [[names[middle], *reversed(names[:middle]), "texture"], [names[middle], *names[middle + 1 :], "smooth"]]
    figure = Figure(figsize=(19, 6.5), layout="constrained")
    panels = figure.subplot_mosaic(rows)
    for name, control, picture in zip(names, SAMPLE_CONTROLS, moved, strict=True):
        level_db = settings.dynamic_range_db * (picture.numpy() - 1)
        image = panels[name].imshow(level_db, "magma", vmin=-settings.dynamic_range_db, vmax=0, **where)
        side = "the tile itself" if control == 0 else "smooth" if control > 0 else "texture"
        panels[name].set_title(f"{control:+.1f} ({side})" if control else f"0: {side}")
    figure.colorbar(image, ax=panels[names[middle]], label="level (dB under the loudest band)", location="left")
    limit = float(np.abs(patterns_db).max()) or 1.0
    for name, pattern_db, title in (
        ("texture", -patterns_db[0], "gain for one octave more texture"),
        ("smooth", patterns_db[-1], "gain for one octave smoother"),
    ):
        image = panels[name].imshow(pattern_db, "RdBu_r", vmin=-limit, vmax=limit, **where)
        panels[name].set_title(f"pattern: {title}")
        figure.colorbar(image, ax=panels[name], label="gain (dB)")
    for axes in panels.values():
        label_axes(axes, settings)
        axes.set_xlabel("time (s)")
    save_figure(figure, path)


def draw_audit(path: Path, rows: list[AuditRow], verdict: str) -> None:
    """audit.png: octaves measured against octaves asked, a line for each held-out file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    ends = (-CONTROL_RANGE, CONTROL_RANGE)
    axes.plot(ends, ends, color="0.4", linestyle="--", label="the law: got = asked", zorder=3)
    for name in sorted({row.file for row in rows}):
        mine = [row for row in rows if row.file == name]
        line = axes.plot(
            [row.asked_octaves for row in mine], [row.got_octaves for row in mine], alpha=0.6, linewidth=1
        )[0]
        beyond = [row for row in mine if not row.within_reach]
        axes.plot(
            [row.asked_octaves for row in beyond],
            [row.got_octaves for row in beyond],
            "o",
            mfc="none",
            color=line.get_color(),
        )
    axes.plot([], [], "o", mfc="none", color="0.3", label="beyond the file's reach")
    axes.set(xlabel="asked (octaves: - texture, + smooth)", ylabel="measured (octaves)", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("\n".join(verdict.split("; ")), fontsize=10)
    save_figure(figure, path)
