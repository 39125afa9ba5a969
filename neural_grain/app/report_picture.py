"""The report of a rendering as a picture: requested and achieved octaves of every second above both spectrograms.

Matplotlib is imported inside the functions, because it takes long and most renderings need no picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.app.outputs import FileRendering
from neural_grain.app.plan import BatchPlan
from neural_grain.app.report import describe_result
from neural_grain.audio.sound import Sound, open_sound
from neural_grain.base.caches import provide_cache_folder
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import check_writable
from neural_grain.base.identity import refuse_inputs
from neural_grain.data.pictures import PICTURE, label_axes, save_figure
from neural_grain.dsp.analysis import picture_of
from neural_grain.dsp.contour import Seconds, measure_local_grain
from neural_grain.dsp.curve import SLIDER_RANGE, GrainCurve
from neural_grain.dsp.flatness import grain_per_frame
from neural_grain.dsp.move_curve import MISSED, OUT_OF_REACH, SILENT, CurveRendering, GrainContour
from neural_grain.dsp.settings import SpectrogramSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_COLUMNS = 1200  # of a spectrogram; a long sound has several frames in each
SHADES = {OUT_OF_REACH: ("0.8", "out of reach"), MISSED: ("#f2b5a0", "missed"), SILENT: ("0.93", "silent")}


def check_report(path: Path, plan: BatchPlan, also_read: Sequence[Path], *, overwrite: bool) -> None:
    """Raise `PipelineError` if the report of a plan can't be drawn to a file.

    Parameters
    ----------
    also_read : other files that the run reads
    overwrite : replace a picture that exists
    """
    name = f"--report {printable(path)}"
    if len(plan.jobs) > 1:
        raise PipelineError(f"{name}: draws one rendering, not {len(plan.jobs)}")
    if path.suffix.lower() != ".png":
        raise PipelineError(f"{name}: the picture is a PNG; let its name end with .png")
    if os.path.isdir(path):
        raise PipelineError(f"{name}: is a folder")
    if os.path.exists(path) and not overwrite:
        raise PipelineError(f"{name}: exists already; give --overwrite to replace it")
    refuse_inputs([path], [*(place for job in plan.jobs for place in (job.source, job.output)), *also_read])
    check_writable(path.parent)


def draw_report(path: Path, result: FileRendering, settings: SpectrogramSettings, threads: int = 1) -> None:
    """Draw the report of one rendered file as PNG.

    Raises
    ------
    PipelineError
        If the files have no grain, or the picture can't be written.
    """
    provide_cache_folder()
    from matplotlib.figure import Figure

    if result.rendering is None:
        raise PipelineError(f"{printable(result.input)}: nothing to draw, it has no grain")
    before, after = open_sound(result.input), open_sound(result.output)
    curve, contour = _curve_and_contour(result, before, after, settings, threads)
    duration_s = before.n_samples / before.sr
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1, 1))
    # The seconds of a mix are not to be what was requested of the wet sound, whose seconds only a curve measures.
    has_states = result.mix.wet == 1 or isinstance(result.rendering, CurveRendering)
    _draw_contour(panels[0], curve, contour, duration_s, has_states=has_states)
    names = f"before: {printable(result.input.name)}", f"after: {printable(result.output.name)}"
    for axes, sound, title in zip(panels[1:], (before, after), names, strict=True):
        image = _draw_spectrogram(axes, sound, settings, threads, title)
    panels[2].set(xlabel="seconds", xlim=(0, duration_s))
    figure.colorbar(image, ax=list(panels[1:]), label="dB below the loudest band", pad=0.01, aspect=30)
    figure.suptitle(describe_result(result), fontsize=9, wrap=True)
    save_figure(figure, path)


def _curve_and_contour(
    result: FileRendering, before: Sound, after: Sound, settings: SpectrogramSettings, threads: int
) -> tuple[GrainCurve, GrainContour]:
    """What was requested and achieved; for one position of the slider it is measured here."""
    rendering = result.rendering
    if isinstance(rendering, CurveRendering):
        return rendering.curve, rendering.contour
    octaves = float(np.clip(rendering.requested_octaves, -SLIDER_RANGE, SLIDER_RANGE))
    curve, grain = GrainCurve(((0.0, octaves),)), settings.grain
    seconds = Seconds.of(before, grain_per_frame(before, grain, threads).active, grain, threads)
    after_grain = seconds.mean(measure_local_grain(after, grain, threads).flatness)
    is_beyond = np.full(seconds.n, not rendering.within_reach)
    return curve, GrainContour(seconds.grain, after_grain, seconds.requested_octaves(curve), is_beyond)


def _draw_contour(axes: Axes, curve: GrainCurve, contour: GrainContour, duration_s: float, *, has_states: bool) -> None:
    """The curve, and the octaves of each second as steps; seconds that did not follow are shaded if that is known."""
    edges = np.append(np.arange(len(contour.states)), duration_s)
    times_s = np.unique(np.concatenate(([0, duration_s], [min(t, duration_s) for t, _ in curve.points])))
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.plot(times_s, curve.octaves_at(times_s), color="tab:blue", label="requested: the curve")
    axes.stairs(
        contour.requested_octaves, edges, color="tab:blue", alpha=0.5, baseline=None, label="requested of each second"
    )
    axes.stairs(
        contour.achieved_octaves, edges, color="tab:orange", linewidth=2, baseline=None, label="achieved, measured"
    )
    labelled = set()
    for i, state in enumerate(contour.states if has_states else ()):
        if state in SHADES:
            colour, label = SHADES[state]
            axes.axvspan(edges[i], edges[i + 1], color=colour, zorder=0, label=None if state in labelled else label)
            labelled.add(state)
    finite = contour.achieved_octaves[np.isfinite(contour.achieved_octaves)]
    limit = max(SLIDER_RANGE, *np.abs(finite)) if len(finite) else SLIDER_RANGE
    axes.set(ylim=(-1.05 * limit, 1.5 * limit), ylabel="texture  -  octaves  +  smooth")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncol=6, framealpha=1)


def _draw_spectrogram(axes: Axes, sound: Sound, settings: SpectrogramSettings, threads: int, title: str) -> AxesImage:
    """The mel picture of a sound."""
    x = picture_of(sound, settings, threads).x
    size = -(-x.shape[1] // MAX_COLUMNS)
    x = np.maximum.reduceat(x, np.arange(0, x.shape[1], size), axis=1)
    image = axes.imshow(
        settings.dynamic_range_db * (x - 1),
        aspect="auto",
        origin="lower",
        cmap=PICTURE.colour_map,
        vmin=-settings.dynamic_range_db,
        vmax=0,
        extent=(0, sound.n_samples / sound.sr, 0, settings.n_mels),
        interpolation="nearest",
    )
    label_axes(axes, settings)
    axes.set_title(title, fontsize=10, parse_math=False)  # two $ in the name of a file are no formula
    return image
