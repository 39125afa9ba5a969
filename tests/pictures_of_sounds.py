"""Band powers and pictures of whole sounds, for tests and benchmarks; the product measures grain in the same pass."""

from __future__ import annotations

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.dsp.mel import log_mel, mel_filterbank
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.dsp.stft import mean_power, stft_blocks


def band_powers_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Band powers of a sound, shape (frames, n_mels), without padding."""
    weights = mel_filterbank(settings, sound.sr).T
    return np.concatenate(list(stft_blocks(sound, settings.grain, lambda D, _: mean_power(D) @ weights)))


def log_mel_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Picture of a sound, shape (n_mels, frames), in [0, 1]."""
    return log_mel(band_powers_of(sound, settings), settings.dynamic_range_db)
