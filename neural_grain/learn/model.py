"""TODO"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_grain.dsp.settings import CELL_FRAMES, SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, band_fractions_column
from neural_grain.learn.modulation import (
    NOISE_CELLS,
    band_fluctuation,
    modulation_beside_noise,
    noise_modulation,
    noise_share,
)

CHANNELS = 24
BAND_STEPS = (1, 4, 16)  # dilation of D's three layers of five bands: at the end it sees 85 of 128
CHUNK_FRAMES = 128 * CELL_FRAMES  # a long picture is gone through in pieces
GATE_TEMPERATURES = (2.0, 20.0)  # first and last epoch
SLOPE_STEP = 0.01  # of a pattern: so much of it moves grain in proportion
SECANT_STEPS = 2  # one leaves twice the violation where a few bands must do it all
SECANT_LIMITS = (0.4, 2.5)
LEAST_SLOPE = 0.25  # of an expander's: a pattern for an octave is at most so many times larger than it
UNIT_PATTERN = 0.03  # root mean square of x for one octave, about


def extend_by_reflection(x: Tensor, n_frames: int) -> Tensor:
    """A picture (batch, n_mels, frames), backwards and forwards again until there are so many frames."""
    index = torch.arange(n_frames, device=x.device) % (2 * x.shape[2])
    return x[..., torch.minimum(index, 2 * x.shape[2] - 1 - index)]


class PatternDetector(nn.Module):
    """D: picture (batch, n_mels, frames) -> pattern of the same shape, zero mean over bands, for each direction.

    Less noise is not more of it the other way round: where noise and tones are as loud as each other,
    a band rises with the noise, and hardly falls without it.

    It looks at cells of 0.37 s: in each band the mean level and which share of it is noise. The
    frequency coordinate lets it learn that texture lives in some bands even where a sound has none
    yet. Between cells the pattern is interpolated. It starts as the spectral expander x - mean(x).
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = CHANNELS):
        super().__init__()
        n_inputs = 6  # level, level minus mean, mean, share of noise and its logarithm, frequency
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels)[:, None], persistent=False)
        self.register_buffer("modulation", noise_modulation(settings), persistent=False)
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))  # of the library
        self.dynamic_range_db = settings.dynamic_range_db
        self.layers = nn.ModuleList(
            nn.Conv1d(channels if i else n_inputs, channels, 5, dilation=step) for i, step in enumerate(BAND_STEPS)
        )
        self.mix = nn.Conv1d(channels, 2, 1)
        self.direct = nn.Conv1d(n_inputs, 2, 1, bias=False)
        for layer in (self.mix, self.direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mix.bias)

    def cells(self, x: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Patterns of each cell for unit control before scaling, smooth and texture: (batch, 2, n_mels, cells).

        Of a crop, ``fluctuations`` (batch, n_mels) are those of the tile around it.
        """
        n_cells = -(-x.shape[2] // CELL_FRAMES)
        x = extend_by_reflection(x, max(n_cells, NOISE_CELLS) * CELL_FRAMES)
        cells = x.unflatten(2, (x.shape[2] // CELL_FRAMES, CELL_FRAMES))  # (batch, n_mels, cells, CELL_FRAMES)
        level = cells[:, :, :n_cells].mean(3)
        mean = level.mean(1, keepdim=True)
        if fluctuations is None:
            spectra = modulation_beside_noise(x, self.modulation, self.dynamic_range_db)
            # Of each cell those that hold it, which see nearly as much as a tile has.
            spectra = F.pad(spectra, (0, 0, NOISE_CELLS - 1, NOISE_CELLS - 1), mode="replicate")
            fluctuation = band_fluctuation(F.avg_pool2d(spectra, (NOISE_CELLS, 1), 1))[:, :, :n_cells]
            share = noise_share(fluctuation, self.full_fluctuation[:, None])
        else:
            share = noise_share(fluctuations, self.full_fluctuation)[:, :, None].expand_as(level)
        inputs = torch.stack(
            (
                2 * level - 1,
                2 * (level - mean),
                (2 * mean - 1).expand_as(level),
                2 * share - 1,
                1 + share.log10() / 2,
                self.frequency.expand_as(level),
            ),
            1,
        )  # (batch, 6, n_mels, cells)
        h = inputs.permute(0, 3, 1, 2).flatten(0, 1)  # (batch * cells, 6, n_mels)
        learned = 4 * self.direct(h)
        for i, layer in enumerate(self.layers):
            reach = 2 * BAND_STEPS[i]
            new = F.silu(layer(F.pad(h, (reach, reach), mode="replicate")))
            h = h + new if i else new
        learned = (learned + 4 * self.mix(h)).unflatten(0, level.shape[::2])  # (batch, cells, 2, n_mels)
        pattern = (level - mean)[:, None] + learned.permute(0, 2, 3, 1)
        return pattern - pattern.mean(2, keepdim=True)

    def forward(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Pattern for unit control before scaling, between the centres of cells in a line: (batch, n_mels, frames).

        ``direction`` (batch,) is negative for texture.
        """
        n_frames = x.shape[2]
        pattern = self.cells(x, fluctuations)[torch.arange(len(x), device=x.device), (direction < 0).long()]
        if pattern.shape[2] > 1:
            pattern = F.interpolate(F.pad(pattern, (1, 1), mode="replicate"), scale_factor=CELL_FRAMES, mode="linear")
            return pattern[..., CELL_FRAMES : CELL_FRAMES + n_frames]
        return pattern.expand(-1, -1, n_frames)


class GrainModel(nn.Module):
    """The CAK layer and its detector: y = x + D(x) c gate(c) scale.

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures that it sees
    channels : int > 0, of the detector
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = CHANNELS):
        super().__init__()
        self.detector = PatternDetector(settings, channels)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dynamic_range_db, self.active_range_db = settings.dynamic_range_db, settings.grain.active_range_db
        self.register_buffer("shares", band_fractions_column(settings), persistent=False)
        self.register_buffer("temperature", torch.tensor(GATE_TEMPERATURES[0]))

    def gate(self, control: Tensor) -> Tensor:
        """Soft gate in [0, 1): 0 at control 0, above 3/4 beyond 2 / temperature."""
        return torch.tanh(0.5 * self.temperature * control.abs())

    def pattern(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """D(x) scale, (batch, n_mels, frames): the change of x for one unit of c gate(c) in a direction, as c has it.

        It is measured in octaves of grain: at its first order a unit of control is `scale` octaves.
        """
        pattern = self.detector(x, direction, fluctuations)
        slope = self.octaves(x, SLOPE_STEP * pattern) / SLOPE_STEP
        size = pattern.square().mean((1, 2)).clamp(min=1e-12).sqrt()
        # A pattern that hardly smooths, or does the opposite, is not turned round: the violation shows it.
        unit = torch.maximum(slope, LEAST_SLOPE / UNIT_PATTERN * size)
        return pattern * (self.scale / unit)[:, None, None]

    def forward(self, x: Tensor, control: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Change of the picture for a control (batch,) in octaves, x (batch, n_mels, frames).

        It is D(x) times an amount that is c gate(c) scale at first; grain is not quite linear in the amount,
        so two secants then correct it, and what comes nearest to moving grain by c is taken.
        """
        pattern = self.pattern(x, control, fluctuations)
        size = control * self.gate(control)
        best, least = size, torch.full_like(control, math.inf)
        for step in range(SECANT_STEPS + 1):
            moved = self.octaves(x, pattern * size[:, None, None])
            is_better = (moved - control).abs() < least
            best, least = torch.where(is_better, size, best), torch.where(is_better, (moved - control).abs(), least)
            if step < SECANT_STEPS:
                forward = moved * control > 1e-6  # or grain turned back on the way: half as far
                size = size * torch.where(forward, control / torch.where(forward, moved, 1.0), 0.5).clamp(
                    *SECANT_LIMITS
                )
        return pattern * best[:, None, None]

    def octaves(self, x: Tensor, change: Tensor) -> Tensor:
        """Octaves by which a change of pictures lowers grain, as the auditor has it, each its own file: (batch,)."""
        return audited_octaves(x, change, self.shares, self.dynamic_range_db, self.active_range_db)


def pattern_in_db(model: GrainModel, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Gain in dB for unit amount of smoothing and of texture, (2, n_mels, cells), of a picture (n_mels, frames).

    A long one is gone through in pieces.
    """
    device = next(model.parameters()).device
    pieces = []
    with torch.inference_mode():
        for start in range(0, x.shape[1], CHUNK_FRAMES):
            around = NOISE_CELLS - 1
            before = min(around, start // CELL_FRAMES)
            first, end = start - before * CELL_FRAMES, start + CHUNK_FRAMES + around * CELL_FRAMES
            piece = torch.from_numpy(np.ascontiguousarray(x[:, first:end])).to(device)
            cells = model.detector.cells(piece[None])[0, ..., before:][..., : CHUNK_FRAMES // CELL_FRAMES]
            pieces.append(cells.cpu().numpy())
    return settings.dynamic_range_db * np.concatenate(pieces, axis=2)
