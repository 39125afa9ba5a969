"""The model: the conditioning-aware kernel (CAK) of Rockman, arXiv 2508.02643, on the powers of tones and texture.

    output = input + learned pattern x control:   N' = N + V(T, N) d(c),   d(c) = 10**(-c gate(c) scale / 10) - 1

N and T are the powers of texture and tones in each mel band and cell of 0.37 s, and c is the control in octaves:
positive is smoother, negative is more texture. The pattern V is the texture that takes part. Where a band has texture
of its own, V is that, so the whole of it gets one gain. Where a band has none, V is what the library's texture is like
there: its typical spectrum, and how that depends on the tones, which a small convolutional detector D learns. The gate
is 0 at c = 0, so a control of 0 changes nothing.

(A pattern was tried for bands with texture of their own, too. With the true spectrum of the added noise as the pattern
the distance to the truth was 0.9 to 1.1 times that of one gain on recordings, so there is nothing to be learned there.)

In: levels (natural logarithms of power) of shape (batch, n_mels, cells). Out: levels of the texture after the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_grain.dsp.generation import GENERATION, WHITE_NOISE, GeneratedTexture
from neural_grain.dsp.settings import NEPER_PER_DB, SpectrogramSettings
from neural_grain.learn.detector import DETECTOR, texture_in_chunks


@dataclass(frozen=True)
class KernelSettings:
    """How the control becomes an amount."""

    gate_temperatures: tuple[float, float] = (2.0, 20.0)  # in the first and last epoch: a soft gate learns faster
    start_scale_db: float = 4.0  # of the texture for an octave, typical of real libraries


KERNEL = KernelSettings()


class PatternDetector(nn.Module):
    """D: from tones and texture to the level of the texture that a band without any would have.

    The inputs are levels relative to the loudest band, the mean of the texture around in time, which tells what stands
    still from what does not, and the frequency.

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures
    channels : int > 0, of the convolutions
    """

    def __init__(self, settings: SpectrogramSettings, channels: int = DETECTOR.channels):
        super().__init__()
        self.register_buffer("frequency", torch.linspace(-1, 1, settings.n_mels)[:, None], persistent=False)
        self.unit = 2 / (NEPER_PER_DB * settings.dynamic_range_db)
        self.layers = nn.ModuleList(
            nn.Conv1d(channels if i else DETECTOR.inputs, channels, DETECTOR.kernel_bands, dilation=dilation)
            for i, dilation in enumerate(DETECTOR.dilations)
        )
        self.mix = nn.Conv1d(channels, 1, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, tones: Tensor, texture: Tensor) -> Tensor:
        """Level relative to the library's typical texture, in dB, shape (batch, n_mels, cells)."""
        context = DETECTOR.context_cells
        around = F.avg_pool1d(F.pad(texture, (context, context), mode="replicate"), 2 * context + 1, 1)
        whole = torch.logaddexp(tones, texture).amax(1, keepdim=True)
        levels = [1 + self.unit * level for level in (tones, texture, whole.expand_as(tones))]
        relative = [self.unit * (tones - texture), self.unit * (texture - around)]
        inputs = torch.stack((*levels, *relative, self.frequency.expand_as(tones)), 1)  # (batch, 6, n_mels, cells)
        h = inputs.permute(0, 3, 1, 2).flatten(0, 1)  # (batch * cells, 6, n_mels)
        for i, layer in enumerate(self.layers):
            padding = DETECTOR.dilations[i] * (DETECTOR.kernel_bands // 2)
            new = F.silu(layer(F.pad(h, (padding, padding), mode="replicate")))
            h = h + new if i else new
        pattern = DETECTOR.range_db * torch.tanh(self.mix(h)[:, 0])
        # Only differences between bands count, because the amount is solved.
        pattern = pattern - pattern.mean(1, keepdim=True)
        return pattern.unflatten(0, (len(tones), -1)).transpose(1, 2)


class GrainModel(nn.Module):
    """The CAK layer with its detector.

    Parameters
    ----------
    settings : SpectrogramSettings, of the pictures
    texture : GeneratedTexture, what the library's texture is like
    channels : int > 0, of the detector
    """

    def __init__(
        self,
        settings: SpectrogramSettings,
        texture: GeneratedTexture = WHITE_NOISE,
        channels: int = DETECTOR.channels,
    ):
        super().__init__()
        self.detector = PatternDetector(settings, channels)
        self.scale = nn.Parameter(torch.full((2,), KERNEL.start_scale_db))  # dB for an octave, smoothing and texture
        spectrum_db = torch.as_tensor(texture.spectrum_db, dtype=torch.float32).expand(settings.n_mels)
        self.register_buffer("spectrum_db", spectrum_db.clone())
        self.register_buffer("crest_db", torch.tensor(float(texture.crest_db)))
        self.register_buffer("temperature", torch.tensor(KERNEL.gate_temperatures[0]))
        self.floor = -NEPER_PER_DB * settings.dynamic_range_db

    def gate(self, control: Tensor) -> Tensor:
        """Soft gate in [0, 1): 0 at control 0, above 3/4 beyond 2 / temperature."""
        return torch.tanh(0.5 * self.temperature * control.abs())

    def amount_db(self, control: Tensor) -> Tensor:
        """Amount of texture in dB for controls (batch,) in octaves, positive for more texture."""
        return -control * self.gate(control) * self.scale[(control < 0).long()]

    def pattern(self, tones: Tensor, texture: Tensor, correction_db: Tensor | None = None) -> Tensor:
        """Levels of the texture V that takes part when a sound gets more texture, shape (batch, n_mels, cells).

        Parameters
        ----------
        correction_db : Tensor of that shape, what D says; computed if it is None
        """
        if correction_db is None:
            correction_db = self.detector(tones, texture)
        share = ((texture - self.floor) / (NEPER_PER_DB * GENERATION.present_db)).clamp(0, 1)
        loudest = torch.maximum(tones, texture).amax(1, keepdim=True)
        # As in `dsp/generation`: at the floor of the picture, and as loud as the loudest band of its time.
        typical = self.floor + loudest + NEPER_PER_DB * (self.spectrum_db[:, None] + correction_db)
        return share * texture + (1 - share) * typical

    def forward(self, tones: Tensor, texture: Tensor, control: Tensor) -> Tensor:
        """Levels of the texture after controls (batch,) in octaves."""
        return move_texture(texture, self.pattern(tones, texture), self.amount_db(control))


def move_texture(texture: Tensor, pattern: Tensor, amount_db: Tensor) -> Tensor:
    """Levels of the texture N + V d for more texture, and with one gain for less.

    Parameters
    ----------
    texture, pattern : Tensor, shape (batch, n_mels, cells), levels
    amount_db : Tensor, shape (batch,), positive for more texture
    """
    amount = NEPER_PER_DB * amount_db[:, None, None]
    added = pattern + torch.expm1(amount.clamp(min=1e-9)).log()
    return torch.where(amount > 0, torch.logaddexp(texture, added), texture + amount)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that the number of cores does not change how sums are rounded.

    The layers are so small that several threads are slower, too.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def detect(model: GrainModel, tones: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """What the detector of a model says for levels (n_mels, cells), computed where its weights are, in dB."""
    device = model.spectrum_db.device
    with torch.inference_mode(), one_torch_thread():
        levels = (torch.tensor(level)[None].to(device) for level in (tones, texture))
        return model.detector(*levels)[0].cpu().numpy()


def generated_texture(model: GrainModel, tones_db: np.ndarray, texture_db: np.ndarray) -> GeneratedTexture:
    """The texture that a model would give a whole sound.

    Parameters
    ----------
    tones_db, texture_db : np.ndarray, shape (n_mels, steps), dB
    """
    spectrum_db, crest_db = model.spectrum_db.cpu().numpy(), float(model.crest_db)
    return texture_in_chunks(partial(detect, model), spectrum_db, crest_db, tones_db, texture_db)
