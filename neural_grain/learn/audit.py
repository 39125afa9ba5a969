"""The audit: does the slider do what it promises on files that the model has not learned from?

Held-out files are rendered at seven positions of the slider, and the output is measured with the function of
stage 1. The verdict says in plain words how exactly the requested octaves were achieved, whether most positions are
within reach, how well the tones were kept, whether what is generated is nearer to the library's texture than without a
model, and what to do if not.

In: `TrainingPairs` and a trained model. Out: an `AuditReport`, which becomes audit.json, audit.png and a part of
the model file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import Sound, open_sound
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import is_inside
from neural_grain.base.records import relative_posix
from neural_grain.data.metadata import FEW_FILES, NARROW_OCTAVES
from neural_grain.data.tiles import TrainingPairs, check_as_measured, group_copies
from neural_grain.dsp.analysis import Analysis, analyse, with_texture
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.dsp.stft import mean_power, stft_blocks
from neural_grain.learn.dataset import split_files
from neural_grain.learn.model import GrainModel, generated_texture


@dataclass(frozen=True)
class AuditSettings:
    """What is audited, and what the verdict calls good."""

    max_files: int = 24  # rendering one takes seconds; these are spread evenly over the held-out files
    positions_octaves: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    monotone_tolerance_octaves: float = 0.02  # rendering corrects grain to within this
    accurate_octaves: float = 0.05  # 3.5 % of grain, with room above the 0.02 octaves that rendering corrects to
    min_nearer_share: float = 0.01  # an improvement over one gain smaller than this is none
    tone_over_texture: float = 100.0  # power of a bin that counts as a tone: texture can't move it by more than 1 dB
    tone_over_loudest: float = 1e-4  # quieter bins are hardly heard beside the loudest
    good_tones_db: float = 1.0  # partials that move less against each other keep their sound
    min_reach_share: float = 0.5  # with fewer positions within reach, most of the slider has no effect


AUDIT = AuditSettings()


@dataclass(frozen=True)
class AuditRow:
    """One held-out file, rendered at one position of the slider and measured as in stage 1."""

    file: str  # its path, relative to the folder of training_pairs.json
    requested_octaves: float
    achieved_octaves: float
    within_reach: bool
    level_change_db: float
    texture_alone: bool  # False if the expander thinned out partials as well
    tones_moved_db: float | None  # `tones_moved`; None if the file has no tones


@dataclass(frozen=True)
class AuditSummary:
    """The audit in numbers and one verdict in words; None for what could not be measured."""

    verdict: str
    files: int
    files_true: int  # whose slider is accurate at every position within reach
    files_monotone: int  # whose grain never rises as the slider moves towards smooth
    error_median_octaves: float | None
    error_95th_octaves: float | None
    within_reach_share: float | None
    texture_alone_share: float | None  # of the positions within reach
    tones_moved_db: float | None  # 95th percentile over the files where texture alone was moved
    level_change_max_db: float | None
    held_out_violation_octaves: float
    nearer_than_one_gain_share: float


class AuditReport(NamedTuple):
    """The measurements, their summary, and a line for each file that could not be audited."""

    rows: list[AuditRow]
    summary: AuditSummary
    failures: list[str]


def audit_model(
    pairs: TrainingPairs,
    model: GrainModel,
    *,
    held_out_violation: float,
    nearer_than_one_gain: float,
    seed: int,
    folder: Path,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> AuditReport:
    """Render held-out files across the slider and measure them.

    Parameters
    ----------
    held_out_violation : float, octaves, of held-out tiles after training; reported as it is
    nearer_than_one_gain : float, `share_nearer`; reported as it is
    seed : int, that the model was trained with: it decides which files were held out
    folder : the folder of training_pairs.json. Audio outside it is read only if it is the file that stage 1
        measured, so that a JSON from elsewhere can't make the program open any other file.
    progress : wraps the loop over files, given their number
    """
    held_out = split_files(pairs, seed).held_out
    n_files = min(AUDIT.max_files, len(held_out))
    chosen = [pairs.sources[held_out[i]] for i in np.linspace(0, len(held_out) - 1, n_files).round().astype(int)]
    rows, failures = [], []
    model.eval()
    for source in progress(chosen, len(chosen)):
        try:
            if not is_inside(source.path, folder):
                check_as_measured(source)
            rows += audit_file(source.path, relative_posix(source.path, folder), model, pairs.settings)
        except PipelineError as err:
            failures.append(f"{printable(source.path)}: {err}")
    summary = summarise_audit(
        rows,
        held_out_violation=held_out_violation,
        nearer_than_one_gain=nearer_than_one_gain,
        n_files=len(group_copies(pairs)),
        spread_octaves=grain_spread_octaves(source.grain for source in pairs.sources),
    )
    return AuditReport(rows, summary, failures)


def audit_file(path: Path, name: str, model: GrainModel, settings: SpectrogramSettings) -> list[AuditRow]:
    """Render one file, called ``name`` in the report, at every position and measure the output."""
    analysis = analyse(open_sound(path), settings)
    solver = AmountSolver(GainField(analysis, generated_texture(model, analysis.tones_db, analysis.texture_db)))
    rows = []
    for octaves in AUDIT.positions_octaves:
        rendering = move_grain(solver, octaves, ceiling=CEILING)
        rows.append(
            AuditRow(
                file=name,
                requested_octaves=octaves,
                achieved_octaves=rendering.achieved_octaves,
                within_reach=rendering.within_reach,
                level_change_db=rendering.level_db,
                texture_alone=rendering.amounts.expander == 0,
                tones_moved_db=tones_moved(analysis, rendering.sound) if octaves else 0.0,
            )
        )
    return rows


def tones_moved(analysis: Analysis, sound: Sound) -> float | None:
    """How far a rendering moved the tones of a sound against each other, in dB; None if the sound has no tones.

    Tones are the bins whose power over time lies far above that of the texture, and not far below the loudest. Of the
    changes of their levels, less the median, it is the 95th percentile.
    """
    grain = analysis.settings.grain
    before, texture = _summed_powers(with_texture(analysis.sound, analysis.layers), grain, 2)
    (after,) = _summed_powers(sound, grain, 1)
    is_tone = (before > AUDIT.tone_over_texture * texture) & (before > AUDIT.tone_over_loudest * before.max())
    if not is_tone.any():
        return None
    change_db = 10 * np.log10(after[is_tone] / before[is_tone])
    return float(np.percentile(np.abs(change_db - np.median(change_db)), 95))


def _summed_powers(sound: Sound, settings: GrainSettings, n_parts: int) -> np.ndarray:
    """Power of each bin, summed over time, of equal parts of the channels: (n_parts, bins)."""
    n, band = sound.channels // n_parts, settings.band_for(sound.sr)

    def powers(D: np.ndarray, _: float) -> np.ndarray:
        return np.stack([mean_power(D[i * n : (i + 1) * n, :, band]).sum(axis=0) for i in range(n_parts)])

    return np.sum(list(stft_blocks(sound, settings, powers)), axis=0, dtype=float)


def summarise_audit(
    rows: list[AuditRow],
    *,
    held_out_violation: float,
    nearer_than_one_gain: float,
    n_files: int,
    spread_octaves: float,
) -> AuditSummary:
    """Put the measurements into numbers and words.

    Parameters
    ----------
    n_files, spread_octaves : of the whole library, for the advice in the verdict
    """
    files = sorted({row.file for row in rows})
    moved = [row for row in rows if row.requested_octaves]
    errors_by_file = {name: errors for name in files if (errors := errors_within_reach(moved, name))}
    reached = [row for row in moved if row.within_reach]
    tones = [row.tones_moved_db for row in reached if row.texture_alone and row.tones_moved_db is not None]
    errors = [error for of_file in errors_by_file.values() for error in of_file]
    n_accurate = sum(max(of_file) <= AUDIT.accurate_octaves for of_file in errors_by_file.values())
    reach_share = float(np.mean([row.within_reach for row in moved])) if moved else None
    clauses = (
        describe_accuracy(len(files), len(errors_by_file), n_accurate, max(errors, default=0.0)),
        describe_reach(reach_share),
        describe_tones(tones),
        describe_improvement(nearer_than_one_gain),
        *describe_library(n_files, spread_octaves),
    )
    return AuditSummary(
        verdict="; ".join(filter(None, clauses)),
        files=len(files),
        files_true=n_accurate,
        files_monotone=sum(is_monotone(rows, name) for name in files),
        error_median_octaves=float(np.median(errors)) if errors else None,
        error_95th_octaves=float(np.percentile(errors, 95)) if errors else None,
        within_reach_share=reach_share,
        texture_alone_share=float(np.mean([row.texture_alone for row in reached])) if reached else None,
        tones_moved_db=float(np.percentile(tones, 95)) if tones else None,
        level_change_max_db=max((abs(row.level_change_db) for row in rows), default=None),
        held_out_violation_octaves=held_out_violation,
        nearer_than_one_gain_share=nearer_than_one_gain,
    )


def errors_within_reach(rows: list[AuditRow], file: str) -> list[float]:
    """Differences in octaves between requested and achieved at the positions of one file that are within reach."""
    return [abs(row.achieved_octaves - row.requested_octaves) for row in rows if row.file == file and row.within_reach]


def is_monotone(rows: list[AuditRow], file: str) -> bool:
    """Whether a file gets smoother, or at least no grainier, with every step of the slider towards smooth."""
    achieved = [row.achieved_octaves for row in rows if row.file == file]
    return bool(np.all(np.diff(achieved) >= -AUDIT.monotone_tolerance_octaves))


def describe_accuracy(n_audited: int, n_moved: int, n_accurate: int, largest_error_octaves: float) -> str:
    """How exactly the requested octaves were achieved on the files that could be moved."""
    if not n_audited:
        return "no held-out file could be audited"
    if not n_moved:
        return "no held-out file could be moved to a requested position"
    text = f"the slider is accurate to {AUDIT.accurate_octaves:g} octaves on {n_accurate} of {n_moved} files"
    if n_accurate < n_moved:
        text += f"; the largest error is {largest_error_octaves:.3f} octaves, see audit.png"
    return text


def describe_reach(reach_share: float | None) -> str:
    """A warning if most of the slider has no effect on these files."""
    if reach_share is None or reach_share >= AUDIT.min_reach_share:
        return ""
    return (
        f"only {reach_share:.0%} of the positions are within reach, "
        "because most of these files are already about as smooth or as grainy as possible"
    )


def describe_tones(moved_db: list[float]) -> str:
    """How well tones were kept where texture alone was moved."""
    if not moved_db:
        return ""
    worst = float(np.percentile(moved_db, 95))
    kept = "the tones stay" if worst <= AUDIT.good_tones_db else "the tones do not stay everywhere"
    return f"{kept}: where texture alone moves, they move against each other by {worst:.1f} dB (95th percentile)"


def describe_improvement(nearer_than_one_gain: float) -> str:
    """Whether training was worth it."""
    if nearer_than_one_gain >= AUDIT.min_nearer_share:
        return (
            f"where a sound has no texture of its own, what is generated is {nearer_than_one_gain:.0%} nearer to this "
            "library's texture than without a model"
        )
    return "what is generated is no nearer to this library's texture than without a model: add recordings"


def describe_library(n_files: int, spread_octaves: float) -> list[str]:
    """Advice for a library that is too small or too uniform to learn much from."""
    advice = []
    if n_files < FEW_FILES:
        advice.append(f"the library is small ({n_files} files): {FEW_FILES} or more teach a better pattern")
    if spread_octaves < NARROW_OCTAVES:
        advice.append(
            f"the library's files hardly differ in grain ({spread_octaves:.2f} octaves): "
            "add smoother and grainier sounds"
        )
    return advice
