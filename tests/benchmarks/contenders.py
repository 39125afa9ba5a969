"""What the learned pattern is compared with: gains by hand for the whole sound, one gain for its texture, and variants.

A gain pattern by hand moves tones and noise alike, as the expander does; its amount is solved on the samples. A contender
that moves the texture is a function from an `Analysis` to the texture that `GainField` generates.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from neural_grain.audio.sound import Sound, sound_from_array
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.generation import WHITE_NOISE, GeneratedTexture
from neural_grain.dsp.layers import crest_factor_db
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.resynthesis import interpolate_gains
from neural_grain.dsp.settings import NEPER_PER_DB, STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import frame_blocks, hann_window, overlap_add, pad_edges
from neural_grain.learn import game
from neural_grain.learn.adam import Adam
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.detector import cell_levels
from neural_grain.learn.game import AuditGame
from neural_grain.learn.model import GrainModel, generated_texture
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import train_epoch

Contender = Callable[[Analysis], GeneratedTexture]
EDGE_SAMPLES = 4096


def one_gain(_analysis: Analysis) -> GeneratedTexture:
    """The same gain for the whole texture, and white noise where there is none: what works without a model."""
    return WHITE_NOISE


def expander_db(analysis: Analysis) -> np.ndarray:
    """Gains of the spectral expander, (n_mels, steps)."""
    level_db = np.logaddexp(NEPER_PER_DB * analysis.tones_db, NEPER_PER_DB * analysis.texture_db) / NEPER_PER_DB
    return level_db - level_db.mean(axis=0)


def tilt_db(analysis: Analysis) -> np.ndarray:
    """A straight line from 0 dB in the lowest band to -40 dB in the highest, (n_mels, steps)."""
    return np.linspace(0, -40, len(analysis.tones_db))[:, None] + np.zeros_like(analysis.tones_db)


HAND_MADE = {"expander": expander_db, "tilt": tilt_db}


def moved_by_hand(analysis: Analysis, gain_db: np.ndarray, octaves: float) -> Sound:
    """The sound with gains of bands and steps, times the amount that moves grain by some octaves, at its own level."""
    settings, sound = analysis.settings, analysis.sound
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    padded = pad_edges(sound, n_fft, hop_length)
    windows = np.concatenate(list(frame_blocks(padded.blocks(), n_fft, hop_length)), axis=1)
    D = np.fft.rfft(windows * hann_window(n_fft))
    times = (np.arange(D.shape[1]) + 0.5) / STEP_FRAMES
    log_gain = interpolate_gains(gain_db, times, NEPER_PER_DB / 2 * band_interpolation(settings, sound.sr))

    def moved(amount: float) -> Sound:
        frames = np.fft.irfft(D * np.exp(np.clip(amount * log_gain, -15, 15)), n_fft) * hann_window(n_fft)
        y = overlap_add(frames.astype(np.float32) / np.float32(1.5), hop_length)
        y = y[:, n_fft - hop_length :][:, : sound.n_samples].T
        return sound_from_array(y * math.sqrt(analysis.energy / np.square(y).sum()), sound.sr)

    amounts = math.copysign(1.0, octaves) * np.geomspace(0.005, 4, 24)
    achieved = [math.log2(analysis.grain / measure_grain(moved(amount), settings.grain)) for amount in amounts]
    short = [abs(each) < abs(octaves) or each * octaves < 0 for each in achieved]
    i = next((i for i, is_short in enumerate(short) if not is_short), None)
    if i is None:
        return moved(amounts[int(np.argmin(np.abs(np.array(achieved) - octaves)))])
    low, high = (amounts[i - 1] if i else 0.0), amounts[i]
    for _ in range(7):
        middle = (low + high) / 2
        reached = math.log2(analysis.grain / measure_grain(moved(middle), settings.grain))
        low, high = (middle, high) if abs(reached) < abs(octaves) else (low, middle)
    return moved((low + high) / 2)


@dataclass(frozen=True)
class Variant:
    """A training with something changed; ``patch`` is the module, the name in it, and the other value."""

    channels: int = 16
    patch: tuple[ModuleType, str, object] | None = None


VARIANTS: dict[str, Variant] = {
    "full": Variant(),
    "natural tiles only": Variant(patch=(game, "GAME", replace(game.GAME, natural_share=1.0))),
    "D with 8 channels": Variant(8),
    "D with 32 channels": Variant(32),
}


def variants_of(argument: str) -> list[str]:
    """The variants that an option names, separated by semicolons, or all, or none."""
    return [] if argument == "none" else list(VARIANTS) if argument == "all" else argument.split(";")


def tiles_of(analyses: list[Analysis], n_steps: int) -> Tiles:
    """``n_steps`` steps of sounds, without the padding before them, as tiles."""
    layers = (
        [cell_levels(getattr(a, name)[:, 2 : n_steps + 2]) for a in analyses] for name in ("tones_db", "texture_db")
    )
    return Tiles(*(torch.from_numpy(np.stack(levels)) for levels in layers))


def typical_texture_of(analyses: list[Analysis], tiles: Tiles) -> GeneratedTexture:
    """What stage 3 takes from the tiles of a library."""
    # The ends of these sounds are cut in the middle of waves, which leaves tones in the texture there.
    crests_db = [crest_factor_db(a.layers.texture(EDGE_SAMPLES, a.sound.n_samples - EDGE_SAMPLES)) for a in analyses]
    return tiles.typical_texture(np.array(crests_db), analyses[0].settings)


def train_on(
    tiles: Tiles, texture: GeneratedTexture, settings: SpectrogramSettings, variant_name: str, seed: int, epochs: int
) -> GrainModel:
    """Train a variant on tiles in memory, as stage 3 does."""
    variant, options = VARIANTS[variant_name], TrainOptions(epochs=epochs, seed=seed)
    torch.manual_seed(seed)
    model = GrainModel(settings, texture, variant.channels)
    optimizer = Adam(model.parameters())
    with patch.object(*(variant.patch or (game, "GAME", game.GAME))):
        audit_game = AuditGame(settings)
        for epoch in range(1, epochs + 1):
            train_epoch(audit_game, model, optimizer, tiles, epoch, options)
    return model.eval()


def contender(model: GrainModel) -> Contender:
    """A model as a contender."""
    return lambda analysis: generated_texture(model, analysis.tones_db, analysis.texture_db)
