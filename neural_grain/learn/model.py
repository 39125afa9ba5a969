"""The model: the conditioning-aware kernel (CAK) of Rockman, arXiv 2508.02643, on mel pictures.

    y = x + D(x) c gate(c) scale

D is a small convolutional detector that returns a pattern, the change of the picture for one octave of grain. The
control c is in octaves: positive is smoother, negative is more texture. The gate is 0 at c = 0, so a control of 0
changes nothing. Afterwards the amount is corrected until the auditor measures c octaves.

In: pictures x of shape (batch, n_mels, frames) in [0, 1] and controls of shape (batch,). Out: changes of x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_grain.dsp.settings import CELL_FRAMES, SpectrogramSettings
from neural_grain.learn.auditor import audited_octaves, band_fractions_column
from neural_grain.learn.modulation import (
    MODULATION,
    band_fluctuation,
    noise_modulation,
    noise_share,
    relative_modulation,
)


@dataclass(frozen=True)
class DetectorSettings:
    """The shape of the detector D."""

    channels: int = 24
    kernel_bands: int = 5
    dilations: tuple[int, ...] = (1, 4, 16)  # together the three layers see 85 of 128 bands
    chunk_cells: int = 128  # of a long picture that are processed at once, to bound the memory

    @property
    def chunk_frames(self) -> int:
        """Frames of a long picture that are processed at once."""
        return self.chunk_cells * CELL_FRAMES


@dataclass(frozen=True)
class KernelSettings:
    """How a pattern becomes a change of a given number of octaves."""

    gate_temperatures: tuple[float, float] = (2.0, 20.0)  # in the first and last epoch: a soft gate learns faster
    slope_step: float = 0.01  # share of a pattern that is small enough to measure the slope of grain
    unit_pattern: float = 0.03  # typical root mean square of a pattern for one octave, in units of x
    min_slope: float = 0.25  # of the slope of such a pattern: bounds the size of patterns that hardly move grain
    secant_steps: int = 2  # one leaves twice the violation where a few bands must do everything
    secant_limits: tuple[float, float] = (0.4, 2.5)  # factors by which one step may change the amount


DETECTOR = DetectorSettings()
KERNEL = KernelSettings()


def extend_by_reflection(x: Tensor, n_frames: int) -> Tensor:
    """Repeat a picture (batch, n_mels, frames) backwards and forwards until it has ``n_frames`` frames."""
    index = torch.arange(n_frames, device=x.device) % (2 * x.shape[2])
    return x[..., torch.minimum(index, 2 * x.shape[2] - 1 - index)]


class PatternDetector(nn.Module):
    """D: from a picture to a pattern of the same shape for each direction, with zero mean over bands.

    The two directions have separate patterns, because less noise is not the opposite of more noise: where noise
    and tones are equally loud, a band rises with the noise but hardly falls without it.

    The inputs are cells of 0.37 s: the mean level of each band and the share of it that is noise. A frequency
    coordinate lets D learn that texture lives in certain bands even if a sound has none there yet. D starts as
    the spectral expander, x - mean(x).

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures
    channels : int > 0, of the convolutions
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = DETECTOR.channels):
        super().__init__()
        n_inputs = 6  # level, level minus mean, mean, share of noise, its logarithm, frequency
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels)[:, None], persistent=False)
        self.register_buffer("modulation", noise_modulation(settings), persistent=False)
        self.register_buffer("full_fluctuation", torch.ones(settings.n_mels))  # of the library
        self.dynamic_range_db = settings.dynamic_range_db
        self.layers = nn.ModuleList(
            nn.Conv1d(channels if i else n_inputs, channels, DETECTOR.kernel_bands, dilation=dilation)
            for i, dilation in enumerate(DETECTOR.dilations)
        )
        self.mix = nn.Conv1d(channels, 2, 1)
        self.direct = nn.Conv1d(n_inputs, 2, 1, bias=False)
        for layer in (self.mix, self.direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mix.bias)

    def noise_share_of_cells(self, x: Tensor, n_cells: int) -> Tensor:
        """Share of noise in each band of the first cells of a picture: (batch, n_mels, n_cells).

        The fluctuation of a cell is the mean over all windows that contain it, which together are nearly as long
        as a tile.
        """
        spectra = relative_modulation(x, self.modulation, self.dynamic_range_db)
        spectra = F.pad(spectra, (0, 0, MODULATION.window_cells - 1, MODULATION.window_cells - 1), mode="replicate")
        spectra = F.avg_pool2d(spectra, (MODULATION.window_cells, 1), 1)
        return noise_share(band_fluctuation(spectra)[:, :, :n_cells], self.full_fluctuation[:, None])

    def cells(self, x: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Patterns of each cell for a unit of control, before scaling.

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        fluctuations : Tensor, shape (batch, n_mels), if x is a crop that is too short to measure them

        Returns
        -------
        Tensor, shape (batch, 2, n_mels, cells): for smoothing and for texture
        """
        n_cells = -(-x.shape[2] // CELL_FRAMES)
        x = extend_by_reflection(x, max(n_cells, MODULATION.window_cells) * CELL_FRAMES)
        cells = x.unflatten(2, (x.shape[2] // CELL_FRAMES, CELL_FRAMES))  # (batch, n_mels, cells, CELL_FRAMES)
        level = cells[:, :, :n_cells].mean(3)
        mean = level.mean(1, keepdim=True)
        if fluctuations is None:
            share = self.noise_share_of_cells(x, n_cells)
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
        learned = self._convolve(inputs.permute(0, 3, 1, 2).flatten(0, 1))  # (batch * cells, 2, n_mels)
        learned = learned.unflatten(0, level.shape[::2])  # (batch, cells, 2, n_mels)
        pattern = (level - mean)[:, None] + learned.permute(0, 2, 3, 1)
        return pattern - pattern.mean(2, keepdim=True)

    def _convolve(self, h: Tensor) -> Tensor:
        """The learned part of the patterns, (batch * cells, 2, n_mels), from inputs (batch * cells, 6, n_mels)."""
        learned = 4 * self.direct(h)
        for i, layer in enumerate(self.layers):
            padding = DETECTOR.dilations[i] * (DETECTOR.kernel_bands // 2)
            new = F.silu(layer(F.pad(h, (padding, padding), mode="replicate")))
            h = h + new if i else new
        return learned + 4 * self.mix(h)

    def forward(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Pattern for a unit of control, before scaling; it is interpolated linearly between the centres of cells.

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        direction : Tensor, shape (batch,), negative for texture
        fluctuations : Tensor, shape (batch, n_mels), as for `cells`

        Returns
        -------
        Tensor, shape (batch, n_mels, frames)
        """
        n_frames = x.shape[2]
        pattern = self.cells(x, fluctuations)[torch.arange(len(x), device=x.device), (direction < 0).long()]
        if pattern.shape[2] > 1:
            pattern = F.interpolate(F.pad(pattern, (1, 1), mode="replicate"), scale_factor=CELL_FRAMES, mode="linear")
            return pattern[..., CELL_FRAMES : CELL_FRAMES + n_frames]
        return pattern.expand(-1, -1, n_frames)


class GrainModel(nn.Module):
    """The CAK layer with its detector.

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures
    channels : int > 0, of the detector
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = DETECTOR.channels):
        super().__init__()
        self.detector = PatternDetector(settings, channels)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dynamic_range_db, self.active_range_db = settings.dynamic_range_db, settings.grain.active_range_db
        self.register_buffer("fractions", band_fractions_column(settings), persistent=False)
        self.register_buffer("temperature", torch.tensor(KERNEL.gate_temperatures[0]))

    def gate(self, control: Tensor) -> Tensor:
        """Soft gate in [0, 1): 0 at control 0, above 3/4 beyond 2 / temperature."""
        return torch.tanh(0.5 * self.temperature * control.abs())

    def octaves(self, x: Tensor, change: Tensor) -> Tensor:
        """Octaves by which a change lowers the grain of pictures, as the auditor measures it: (batch,)."""
        return audited_octaves(x, change, self.fractions, self.dynamic_range_db, self.active_range_db)

    def pattern(self, x: Tensor, direction: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """D(x) scale: the change of x for one unit of c gate(c), scaled so that a unit is ``scale`` octaves for small changes.

        Parameters
        ----------
        x : Tensor, shape (batch, n_mels, frames)
        direction : Tensor, shape (batch,), negative for texture
        fluctuations : Tensor, shape (batch, n_mels), of longer parts of the same sounds if x are crops

        Returns
        -------
        Tensor, shape (batch, n_mels, frames)
        """
        pattern = self.detector(x, direction, fluctuations)
        slope = self.octaves(x, KERNEL.slope_step * pattern) / KERNEL.slope_step
        size = pattern.square().mean((1, 2)).clamp(min=1e-12).sqrt()
        # The sign of a pattern that moves grain the wrong way is left alone: the violation has to correct it.
        unit = torch.maximum(slope, KERNEL.min_slope / KERNEL.unit_pattern * size)
        return pattern * (self.scale / unit)[:, None, None]

    def forward(self, x: Tensor, control: Tensor, fluctuations: Tensor | None = None) -> Tensor:
        """Change of pictures for controls (batch,) in octaves; ``x`` and ``fluctuations`` as for `pattern`.

        Grain is not exactly linear in the amount of the pattern. Starting from the amount c gate(c), secant steps
        correct it, and the amount that comes nearest to c octaves is used.
        """
        pattern = self.pattern(x, control, fluctuations)
        amount = control * self.gate(control)
        best, smallest_error = amount, torch.full_like(control, math.inf)
        for step in range(KERNEL.secant_steps + 1):
            moved = self.octaves(x, pattern * amount[:, None, None])
            error = (moved - control).abs()
            is_better = error < smallest_error
            best, smallest_error = torch.where(is_better, amount, best), torch.where(is_better, error, smallest_error)
            if step < KERNEL.secant_steps:
                # Where grain moved the wrong way, the amount went past the turning point and is halved.
                is_forward = moved * control > 1e-6
                factor = torch.where(is_forward, control / torch.where(is_forward, moved, 1.0), 0.5)
                amount = amount * factor.clamp(*KERNEL.secant_limits)
        return pattern * best[:, None, None]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that the number of cores does not change how sums are rounded.

    The layers are so small that several threads are slower, too: 1.5 to 2.7 s instead of 0.4 s for two minutes on two
    cores.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def pattern_in_db(model: GrainModel, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Patterns of a whole sound as gains, computed in chunks so that memory does not grow with its length.

    Parameters
    ----------
    model : GrainModel
    x : np.ndarray, shape (n_mels, frames), float32
    settings : SpectrogramSettings

    Returns
    -------
    np.ndarray, shape (2, n_mels, cells): gain in dB for a unit amount of smoothing and of texture
    """
    device = next(model.parameters()).device
    chunk_frames, context_cells = DETECTOR.chunk_frames, MODULATION.window_cells - 1
    chunks = []
    with torch.inference_mode(), one_torch_thread():
        for start in range(0, x.shape[1], chunk_frames):
            cells_before = min(context_cells, start // CELL_FRAMES)
            first = start - cells_before * CELL_FRAMES
            end = start + chunk_frames + context_cells * CELL_FRAMES
            chunk = torch.from_numpy(np.ascontiguousarray(x[:, first:end])).to(device)
            cells = model.detector.cells(chunk[None])[0, ..., cells_before:][..., : DETECTOR.chunk_cells]
            chunks.append(cells.cpu().numpy())
    return settings.dynamic_range_db * np.concatenate(chunks, axis=2)
