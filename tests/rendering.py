"""TODO"""

from __future__ import annotations

import numpy as np
from conftest import SR

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import settings as dsp_settings
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gains import spectral_expander
from neural_grain.dsp.resynthesis import SpectralGain, render_blocks
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

SETTINGS = default_settings(GrainSettings())


def rendered(y: np.ndarray, sr: int, gain_db: np.ndarray, **options) -> np.ndarray:
    changer = SpectralGain(SETTINGS, sr, options.pop("onset", None))
    blocks = render_blocks(sound_from_array(y, sr), lambda a, b: gain_db[:, a:b], changer, **options)
    return np.concatenate(list(blocks))


def n_steps(y: np.ndarray, sr: int) -> int:
    return analyse(sound_from_array(y, sr), SETTINGS).step_db.shape[1]


def expander_of(analysis) -> np.ndarray:
    """The expander as if it were learned: a value for each cell."""
    n = -(-analysis.x.shape[1] // dsp_settings.CELL_FRAMES)
    cells = [
        analysis.x[:, dsp_settings.CELL_FRAMES * i :][:, : dsp_settings.CELL_FRAMES].mean(axis=1) for i in range(n)
    ]
    return spectral_expander(SETTINGS.dynamic_range_db * np.stack(cells, axis=1))


def solver_of(y: np.ndarray, sr: int = SR) -> AmountSolver:
    analysis = analyse(sound_from_array(y, sr), SETTINGS)
    return AmountSolver(analysis, expander_of(analysis))
