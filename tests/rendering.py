"""Helpers for the tests of analysis, solver and renderer: one setting, a hand-made pattern, and short cuts to render."""

from __future__ import annotations

import numpy as np
from conftest import SR

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import spectral_expander
from neural_grain.dsp.resynthesis import SpectralGain, render_blocks
from neural_grain.dsp.settings import CELL_FRAMES, GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SETTINGS = default_settings(GrainSettings())


def samples_of(sound: Sound) -> np.ndarray:
    """All samples of a sound, shape (n_samples, channels)."""
    return np.concatenate(list(sound.blocks()))


def rendered(
    y: np.ndarray, sr: int, gain_db: np.ndarray, *, onset: np.ndarray | None = None, threads: int = 1
) -> np.ndarray:
    """Samples ``y``, shape (n_samples, channels), with gains of shape (n_mels, steps)."""
    spectral_gain = SpectralGain(SETTINGS, sr, onset)
    sound = sound_from_array(y, sr)
    blocks = render_blocks(sound, lambda start, stop: gain_db[:, start:stop], spectral_gain, threads=threads)
    return np.concatenate(list(blocks))


def n_steps(y: np.ndarray, sr: int) -> int:
    """Number of steps of a sound."""
    return analyse(sound_from_array(y, sr), SETTINGS).step_db.shape[1]


def expander_of(analysis: Analysis) -> np.ndarray:
    """The spectral expander in the form of a learned pattern: one gain for each band and cell."""
    starts = range(0, analysis.x.shape[1], CELL_FRAMES)
    cells = [analysis.x[:, start : start + CELL_FRAMES].mean(axis=1) for start in starts]
    return spectral_expander(SETTINGS.dynamic_range_db * np.stack(cells, axis=1))


def field_of(y: np.ndarray, sr: int = SR) -> GainField:
    """The gain field of some samples with the expander as its pattern."""
    analysis = analyse(sound_from_array(y, sr), SETTINGS)
    return GainField(analysis, expander_of(analysis))


def solver_of(y: np.ndarray, sr: int = SR) -> AmountSolver:
    """A solver for some samples with the expander as its pattern."""
    return AmountSolver(field_of(y, sr))
