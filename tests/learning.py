"""What the tests of learn/ share: pictures, models with random weights, a library of breath, and short training runs.

The trained fixtures that use it are in conftest.py, so that this module and torch are imported only when needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures_of_sounds import log_mel_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.data.tiles import TrainingPairs, read_pairs
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.learn import noise_law
from neural_grain.learn.auditor import band_fractions_column
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import TrainedModel, train

SETTINGS = default_settings(GrainSettings())
FRACTIONS = band_fractions_column(SETTINGS)
RANGE_DB = SETTINGS.dynamic_range_db
BAND_CENTRES_HZ = np.array(SETTINGS.band_edges_hz[1:-1])
BREATH_HZ = 4000.0  # the breath of `breathy` lies above
TILE_SAMPLES = 2048 + 255 * 512
SR = 44_100


def picture_of(y: np.ndarray) -> np.ndarray:
    """The picture (n_mels, frames) of one channel at 44.1 kHz."""
    return log_mel_of(sound_from_array(np.float32(y), SR), SETTINGS)


def random_pictures(n: int = 3, frames: int = 40, seed: int = 0) -> torch.Tensor:
    """Pictures (n, n_mels, frames) of independent uniform values."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, 128, frames)).astype(np.float32))


def randomised(seed: int = 0) -> GrainModel:
    """A model whose last layer is not zero, as after training."""
    torch.manual_seed(seed)
    model = GrainModel(SETTINGS)
    torch.nn.init.normal_(model.detector.mix.weight, std=0.1)
    return model.eval()


def breathy(level_db: float, rng: np.random.Generator, tones: bool = True) -> np.ndarray:
    """The picture of a harmonic sound with breath, noise above 4 kHz, at a level; below 4 kHz lies a constant hiss."""
    hz = np.fft.rfftfreq(TILE_SAMPLES, 1 / SR)
    t = np.arange(TILE_SAMPLES) / SR
    y = sum(np.sin(2 * np.pi * k * 150.7 * t + k) / k for k in range(1, 20)) if tones else 0.0
    high, low = (
        np.fft.irfft(np.fft.rfft(rng.standard_normal(TILE_SAMPLES)) * in_band, TILE_SAMPLES)
        for in_band in (hz > BREATH_HZ, hz < BREATH_HZ)
    )
    return picture_of(0.1 * (y + 10 ** (level_db / 20) * high + 10 ** (-45 / 20) * low))


def output_folder(folder: Path) -> Path:
    """An output folder with the subfolders that stage 3 makes."""
    for name in ("checkpoints", "samples"):
        (folder / name).mkdir(parents=True)
    return folder


def shorten_critic(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Let the noise critic learn for a moment only, for tests in which it does not matter what it says."""
    patch(noise_law, "NOISE_LAW", replace(noise_law.NOISE_LAW, steps=40, trial_steps=5))


@dataclass(frozen=True)
class ShortRun:
    """A training run of two epochs with small batches and a short noise critic, made in this process."""

    pairs: TrainingPairs
    options: TrainOptions
    folder: Path
    trained: TrainedModel

    @classmethod
    def of(cls, project: Path, folder: Path, patch: pytest.MonkeyPatch) -> ShortRun:
        pairs, options = read_pairs(project / "training_pairs.json"), TrainOptions(epochs=2, batch_size=8)
        shorten_critic(patch.setattr)
        return cls(pairs, options, folder, train(pairs, options, output_folder(folder)))
