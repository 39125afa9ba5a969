"""TODO"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_grain.audio.limiter import CEILING
from neural_grain.audio.sound import open_sound, rms_of
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import is_inside
from neural_grain.base.records import relative_posix
from neural_grain.data.metadata import FEW_FILES, NARROW_OCTAVES
from neural_grain.data.tiles import TrainingPairs, check_as_measured
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.dsp.solver import AmountSolver
from neural_grain.learn.dataset import split_files
from neural_grain.learn.model import GrainModel, pattern_in_db

AUDIT_FILES = 24
AUDIT_POSITIONS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
MONOTONE_OCTAVES = 0.02
GOOD_OCTAVES = 0.05
LITTLE_NEARER = 0.01  # than an expander: less is nothing
LITTLE_REACH = 0.5  # of the positions asked: with less, most of the slider does nothing


@dataclass(frozen=True)
class AuditRow:
    """One held-out file rendered at one position of the slider and measured by stage 1."""

    file: str  # its path from the folder of training_pairs.json
    asked_octaves: float
    got_octaves: float
    within_reach: bool
    loudness_change_db: float


def audit_file(path: Path, name: str, model: GrainModel, settings: SpectrogramSettings) -> list[AuditRow]:
    """Render one file, called ``name`` in the report, across the slider and measure what came out.

    Raises
    ------
    PipelineError
        If the file can't be read any more.
    """
    sound = open_sound(path)
    analysis = analyse(sound, settings)
    solver = AmountSolver(analysis, pattern_in_db(model, analysis.x, settings))
    rows = []
    for octaves in AUDIT_POSITIONS:
        result = move_grain(solver, octaves, ceiling=CEILING)
        loudness_db = 20 * math.log10(rms_of(result.sound) / rms_of(sound))
        rows.append(AuditRow(name, octaves, result.got_octaves, result.within_reach, loudness_db))
    return rows


def summarise_audit(rows: list[AuditRow], violation: float, nearer: float, n_files: int, spread_octaves: float) -> dict:
    """The audit in numbers and one verdict in words, as plain scalars, None for what could not be measured.

    Parameters
    ----------
    rows : list of AuditRow
    violation : float, octaves, of held-out tiles
    nearer : float, `share_nearer`
    n_files, spread_octaves : of the library
    """
    files = sorted({row.file for row in rows})
    moved = [row for row in rows if row.asked_octaves]
    errors = {
        name: [abs(row.got_octaves - row.asked_octaves) for row in moved if row.file == name and row.within_reach]
        for name in files
    }
    errors = {name: own for name, own in errors.items() if own}
    true_files = sum(max(own) <= GOOD_OCTAVES for own in errors.values())
    every = [error for own in errors.values() for error in own]
    reach = float(np.mean([row.within_reach for row in moved])) if moved else None
    got = {name: [row.got_octaves for row in rows if row.file == name] for name in files}
    monotone = sum(bool(np.all(np.diff(octaves) >= -MONOTONE_OCTAVES)) for octaves in got.values())
    verdict = f"the slider keeps its word within {GOOD_OCTAVES:g} octaves on {true_files} of {len(errors)} files"
    if not errors:
        verdict = (
            "no held-out file could be audited" if not files else "no held-out file can be moved to where it was asked"
        )
    elif true_files < len(errors):
        verdict += f"; the largest error is {max(every):.3f} octaves, see audit.png"
    if reach is not None and reach < LITTLE_REACH:
        verdict += f"; only {reach:.0%} of positions are within reach: most of these files are as smooth or as grainy as can be"
    if nearer >= LITTLE_NEARER:
        verdict += (
            f"; the learned pattern is {nearer:.0%} nearer than a plain expander's to what its referees expect here"
        )
    elif nearer < LITTLE_NEARER:
        verdict += "; the learned pattern is no better than a plain expander's: train longer, or add recordings"
    if n_files < FEW_FILES:
        verdict += f"; the library is small ({n_files} files): {FEW_FILES} or more teach a better pattern"
    if spread_octaves < NARROW_OCTAVES:
        verdict += f"; the library's files hardly differ in grain ({spread_octaves:.2f} octaves): add smoother and grainier sounds"
    return {
        "verdict": verdict,
        "files": len(files),
        "files_true": true_files,
        "files_monotone": monotone,
        "error_median_octaves": float(np.median(every)) if every else None,
        "error_95th_octaves": float(np.percentile(every, 95)) if every else None,
        "within_reach_share": reach,
        "loudness_change_max_db": max((abs(row.loudness_change_db) for row in rows), default=None),
        "held_out_violation_octaves": violation if math.isfinite(violation) else None,
        "nearer_than_expander_share": nearer if math.isfinite(nearer) else None,
    }


def audit_model(
    pairs: TrainingPairs,
    model: GrainModel,
    violation: float,
    nearer: float,
    seed: int,
    folder: Path,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> tuple[list[AuditRow], dict, list[str]]:
    """Render held-out files across the slider and measure them with stage 1's function.

    Audio outside ``folder``, of training_pairs.json, is read only if it is what stage 1 measured:
    nobody else's file is opened because a JSON names it. ``violation`` and ``nearer`` are reported as they are.

    Returns
    -------
    rows, summary, and a line for each file that could not be audited
    """
    _, judge_on = split_files(pairs, seed)
    chosen = [
        judge_on[i] for i in np.linspace(0, len(judge_on) - 1, min(AUDIT_FILES, len(judge_on))).round().astype(int)
    ]
    rows, failures = [], []
    model.eval()
    for source in progress([pairs.sources[i] for i in chosen], len(chosen)):
        try:
            if not is_inside(source.path, folder):
                check_as_measured(source)
            rows += audit_file(source.path, relative_posix(source.path, folder), model, pairs.settings)
        except PipelineError as err:
            failures.append(f"{printable(source.path)}: {err}")
    spread = grain_spread_octaves(source.grain for source in pairs.sources)
    return rows, summarise_audit(rows, violation, nearer, len(pairs.sources), spread), failures
