"""Helpers for the tests of analysis, solver and renderer: one setting, a texture to generate, and short cuts to render."""

from __future__ import annotations

import numpy as np
from conftest import SR

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.settings import CELL_FRAMES, GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SETTINGS = default_settings(GrainSettings())


def samples_of(sound: Sound) -> np.ndarray:
    """All samples of a sound, shape (n_samples, channels)."""
    return np.concatenate(list(sound.blocks()))


def analysis_of(y: np.ndarray, sr: int = SR) -> Analysis:
    """The analysis of samples (n_samples,) or (n_samples, channels)."""
    return analyse(sound_from_array(y.astype(np.float32), sr), SETTINGS)


def varied_texture(analysis: Analysis) -> GeneratedTexture:
    """Noise whose spectrum differs between cells."""
    n_cells = -(-analysis.x.shape[1] // CELL_FRAMES)
    spectrum_db = np.random.default_rng(0).uniform(-12, 6, (SETTINGS.n_mels, n_cells)).astype(np.float32)
    return GeneratedTexture(spectrum_db, 0.0)


def field_of(y: np.ndarray, sr: int = SR) -> GainField:
    """The gain field of some samples, without a model."""
    return GainField(analysis_of(y, sr))


def solver_of(y: np.ndarray, sr: int = SR) -> AmountSolver:
    """A solver for some samples, without a model."""
    return AmountSolver(field_of(y, sr))


def rendered(field: GainField, amounts: Amounts) -> np.ndarray:
    """The samples that some amounts give, shape (n_samples, channels), without a limiter."""
    return np.concatenate(list(field.render(amounts)))
