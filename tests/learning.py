"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.mel import band_fractions, log_mel_of
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.learn import noise_law as learn_noise_law
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import AuditGame
from neural_grain.learn.model import GrainModel

SETTINGS = default_settings(GrainSettings())


SHARES = torch.tensor(band_fractions(SETTINGS), dtype=torch.float32)[:, None]


RANGE_DB = SETTINGS.dynamic_range_db


def tiles(n: int = 3, frames: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 128, frames)).astype(np.float32))


def randomised(seed: int = 0) -> GrainModel:
    """A model whose last layer is not zero, as after training."""
    torch.manual_seed(seed)
    model = GrainModel(SETTINGS)
    torch.nn.init.normal_(model.detector.mix.weight, std=0.1)
    return model.eval()


def breathy(level_db: float, rng: np.random.Generator, tones: bool = True) -> np.ndarray:
    """A tile of tones with noise above 4 kHz at a level, and hiss that stands still below."""
    sr, n = 44_100, 2048 + 255 * 512
    hz = np.fft.rfftfreq(n, 1 / sr)
    y = sum(np.sin(2 * np.pi * k * 150.7 * np.arange(n) / sr + k) / k for k in range(1, 20)) if tones else 0.0
    high = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * (hz > 4000), n)
    low = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * (hz < 4000), n)
    y = y + 10 ** (level_db / 20) * high + 10 ** (-45 / 20) * low
    return log_mel_of(sound_from_array(np.float32(0.1 * y), sr), SETTINGS)


@pytest.fixture(scope="module")
def breath() -> Tiles:
    """A library of tiles with many levels of breath."""
    rng = np.random.default_rng(0)
    return Tiles.of([breathy(level, rng) for level in rng.uniform(-50, -10, 32)], SETTINGS)


@pytest.fixture(scope="module")
def breath_game(breath) -> AuditGame:
    torch.manual_seed(0)
    return AuditGame(SETTINGS, breath, seed=0)


@pytest.fixture
def brief_critic(monkeypatch):
    """For what does not hang on what the noise critic says: it learns for a moment."""
    monkeypatch.setattr(learn_noise_law, "LAW_STEPS", 40)
    monkeypatch.setattr(learn_noise_law, "LAW_TRIAL_STEPS", 5)


def changed(game: AuditGame, level_db: float, more: float) -> np.ndarray:
    """What the noise critic says of a breathy tile with more breath: the change of each band, of x."""
    tile = Tiles.of([breathy(level_db, np.random.default_rng(1))], SETTINGS)
    x, fluctuations = tile.crops(1, np.random.default_rng(0))
    return game.critic.with_more(x, fluctuations, torch.tensor([more]))[0].numpy()
