"""From gains to audio: the layers of a sound with their gains, added up again.

    out = level (transients g_T + ISTFT(expander (STFT(tones) + g_N STFT(noise) + g_G STFT(white noise))))

Without an expander the tones are added as they are, without a transform. The windows are multiplied with the Hann
window before the transform and again after its inverse. Its squares sum to 3/8 n_fft / hop_length, so with gains of 0
dB the output equals the input to float precision (Griffin and Lim, "Signal estimation from modified short-time Fourier
transform", IEEE TASSP 32(2), 1984). All channels get the same gains, so the stereo image stays. Below the analysis band
nothing changes, because grain is not measured there.

In: `Layers`, and `StepGains`. Out: samples, shape (samples, channels), float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import interleave
from neural_grain.base.parallel import ONE_BLAS_THREAD, map_in_order
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.gains import StepGains, lerp_weights
from neural_grain.dsp.generation import sparse_noise, white_noise
from neural_grain.dsp.layers import Layers
from neural_grain.dsp.masking import join_points
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.settings import NEPER_PER_DB, STEP_FRAMES
from neural_grain.dsp.stft import edge_padding, hann_window, overlap_add

PIECE_SAMPLES = 1 << 16  # rendered at a time; the samples around a piece that its windows need are 5 % more work

GainsOfSteps = Callable[[int, int], StepGains]
"""Gives the gains of the steps from one number up to but not including another."""


def interpolate_gains(gain_db: np.ndarray, times: np.ndarray, to_bins: np.ndarray) -> np.ndarray:
    """Interpolate gains linearly over time and map them from bands to bins.

    Parameters
    ----------
    gain_db : np.ndarray, shape (n_mels, steps)
    times : np.ndarray, shape (n,), rising, in steps
    to_bins : np.ndarray, shape (n_mels, bins)

    Returns
    -------
    np.ndarray, shape (n, bins)
    """
    before, after, share = lerp_weights(times, gain_db.shape[1])
    first = before[0]
    steps = gain_db[:, first : after[-1] + 1].T @ to_bins
    value = steps[before - first]
    value += share[:, None] * (steps[after - first] - value)
    return value


class LayerRenderer:
    """Renders any part of a sound from its layers.

    Parameters
    ----------
    analysis : Analysis
    density : float in (0, 1], of generated noise
    """

    def __init__(self, analysis: Analysis, density: float = 1.0):
        settings, sound = analysis.settings, analysis.sound
        self.analysis, self.density = analysis, density
        self.n_fft, self.hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
        self.lead = self.n_fft - self.hop_length  # frame t begins at sample t * hop_length - lead
        self._window = hann_window(self.n_fft)
        # Half of NEPER_PER_DB, because gains in dB are gains of power and these are factors on the amplitude.
        self._to_log_gain = np.float32(NEPER_PER_DB / 2) * band_interpolation(settings, sound.sr)
        below = settings.grain.band_for(sound.sr).start
        self._to_log_gain[:, :below] *= np.linspace(0, 1, below, endpoint=False, dtype=np.float32)
        # In a bin of white noise of power 1 lies the sum of the squares of the window.
        self._unit_noise = np.full(self.n_fft // 2 + 1, np.sqrt(analysis.band_peak / np.square(self._window).sum()))
        self._unit_noise[:below] = 0

    def render(
        self, gains: GainsOfSteps, level: float | np.ndarray = 1.0, *, with_tones: bool = False, threads: int = 1
    ) -> Iterator[np.ndarray]:
        """Render the whole sound piece by piece; the parameters and the pieces are those of `render_range`."""
        n_samples = self.analysis.sound.n_samples
        pieces = (range(i, min(i + PIECE_SAMPLES, n_samples)) for i in range(0, n_samples, PIECE_SAMPLES))

        def render(piece: range) -> np.ndarray:
            return self.render_range(gains, piece.start, piece.stop, level, with_tones=with_tones)

        for piece in map_in_order(render, pieces, threads):
            yield piece
            self.analysis.layers.release_pages()

    def noise_frames(self, n: int) -> np.ndarray:
        """Frames of generated noise at 0 dB of the loudest band, for predictions: (n, bins), complex64."""
        from scipy.fft import rfft

        noise = sparse_noise(np.random.default_rng(0), (n, self.n_fft), self.density)
        return rfft(noise * self._window, axis=-1) * self._unit_noise.astype(np.float32)

    def noise_shares(self, steps: np.ndarray) -> np.ndarray:
        """How generated noise of power 1 is distributed over the channels at some steps: (steps, channels)."""
        length = STEP_FRAMES * self.hop_length
        starts = np.maximum(0, steps * length + self.n_fft // 2 - self.lead)
        starts = np.minimum(starts, max(0, self.analysis.sound.n_samples - length))
        powers = [
            np.square(noise_envelope(self.analysis.layers, start, start + length, self.n_fft)).mean(axis=1)
            for start in starts
        ]
        return np.stack(powers) / self.analysis.sound.channels

    @ONE_BLAS_THREAD
    def render_range(
        self, gains: GainsOfSteps, start: int, stop: int, level: float | np.ndarray = 1.0, *, with_tones: bool = False
    ) -> np.ndarray:
        """Render the samples from ``start`` up to but not including ``stop``.

        Parameters
        ----------
        level : float or np.ndarray, shape (channels,), factor on the samples
        with_tones : whether the tones of the result follow in further channels

        Returns
        -------
        np.ndarray, shape (stop - start, channels or 2 channels), float32
        """
        hop_length, layers = self.hop_length, self.analysis.layers
        first_frame, last_frame = start // hop_length, (stop - 1 + self.lead) // hop_length
        first_step = max(0, first_frame // STEP_FRAMES - 1)
        at_steps = gains(first_step, last_frame // STEP_FRAMES + 2)
        times = (np.arange(first_frame, last_frame + 1) + 0.5) / STEP_FRAMES - first_step
        moved = self._moved(at_steps, first_step, times, range(first_frame, last_frame + 1), with_tones)
        skip = start + self.lead - first_frame * hop_length
        out = moved[:, skip : skip + stop - start]  # (channels, samples)
        n_channels = layers.tones.shape[1]
        if at_steps.bands.expander_db is None:
            tones = np.ascontiguousarray(layers.tones[start:stop].T)
            out += tones
            if with_tones:
                out = np.concatenate((out, tones))
        if (transients := layers.transients[start:stop]).any():
            factor = self._factor_of_samples(at_steps.transients_db, start, stop, first_step)
            out[:n_channels] += factor * transients.T
        factor = np.broadcast_to(np.float32(level), n_channels)[:, None]
        if at_steps.level_db.any():
            factor = factor * self._factor_of_samples(at_steps.level_db, start, stop, first_step)
        out.reshape(-1, n_channels, stop - start)[:] *= factor
        return interleave(out)

    def _factor_of_samples(self, gain_db: np.ndarray, start: int, stop: int, first_step: int) -> np.ndarray:
        """Factor on the amplitude of the samples from ``start`` up to ``stop``, from gains of steps from a first one on.

        Parameters
        ----------
        gain_db : np.ndarray, shape (steps,) or (channels, steps)

        Returns
        -------
        np.ndarray, shape (1 or channels, stop - start)
        """
        # A frame stands for the middle of its window, and a step for the middle of its frames.
        length = STEP_FRAMES * self.hop_length
        first_middle = first_step * length + (length - self.hop_length) // 2 + self.n_fft // 2 - self.lead
        before = max(0, -(-(first_middle - start) // length))
        gain_db = np.atleast_2d(gain_db)
        after = max(0, -(-(stop - first_middle) // length) - gain_db.shape[1] + 1)
        log_factor = np.float32(NEPER_PER_DB / 2) * np.pad(gain_db, ((0, 0), (before, after)), "edge")
        skip = start - first_middle + before * length
        return np.exp(join_points(log_factor, length)[:, skip : skip + stop - start])

    def _moved(
        self, gains: StepGains, first_step: int, times: np.ndarray, frames: range, with_tones: bool
    ) -> np.ndarray:
        """All that goes through a transform, as samples from the start of the first frame on: (channels, samples).

        If the tones go through it, they are a part of that, and follow in further channels if they are wanted.
        """
        bands, layers = gains.bands, self.analysis.layers
        start, stop = frames.start * self.hop_length - self.lead, frames.stop * self.hop_length
        noise = padded_range(layers.noise, start, stop, self.n_fft, self.lead)
        D = self._spectra(noise)
        D *= np.exp(interpolate_gains(bands.noise_db, times, self._to_log_gain))
        has_expander = bands.expander_db is not None
        if has_expander:
            tones = padded_range(layers.tones, start, stop, self.n_fft, self.lead)
            parts = self._spectra(tones)
            D += parts
            if with_tones:
                D = np.concatenate((D, parts))
            D *= np.exp(interpolate_gains(bands.expander_db, times, self._to_log_gain))
        moved = self._samples(D)
        if has_expander or np.ptp(bands.noise_db, axis=0).any():
            alike = noise * self._factor_of_samples(gains.transients_db, start, stop, first_step)
            if has_expander:
                alike = np.concatenate((alike + tones, tones)) if with_tones else alike + tones
            share = started_share(layers, start, stop, self.n_fft, with_tones=has_expander)
            alike += np.tile(share, (len(alike) // len(share), 1)) * (moved - alike)
            moved = alike
        if bands.generated_db is not None:
            white = self._spectra(white_noise(start, stop, len(noise), self.density))
            level_db = bands.generated_db + bands.expander_db if has_expander else bands.generated_db
            amplitude = np.exp(interpolate_gains(level_db, times, self._to_log_gain)) * self._unit_noise
            white *= amplitude.astype(np.float32)
            moved[: len(noise)] += self._samples(white) * noise_envelope(layers, start, stop, self.n_fft)
        return moved

    def _spectra(self, y: np.ndarray) -> np.ndarray:
        """STFT of samples (channels, n): (channels, frames, bins)."""
        from scipy.fft import rfft

        windows = np.lib.stride_tricks.sliding_window_view(y, self.n_fft, axis=1)[:, :: self.hop_length]
        return rfft(windows * self._window, axis=-1)

    def _samples(self, D: np.ndarray) -> np.ndarray:
        """Inverse of `_spectra`."""
        from scipy.fft import irfft

        frames = irfft(D, self.n_fft, axis=-1)
        frames *= self._window / np.float32(0.375 * self.n_fft / self.hop_length)
        return overlap_add(frames, self.hop_length)


class LocalPower(NamedTuple):
    """Power of each sample's surroundings, shape (channels, samples) each."""

    around: np.ndarray  # in a window around it
    past: np.ndarray  # in the last quarter of a window
    coming: np.ndarray  # in the next one

    @classmethod
    def of(cls, layers: Layers, start: int, stop: int, n_fft: int, tones: float) -> LocalPower:
        """Measure it around the samples from ``start`` up to ``stop``: the noise, and the power of the tones times ``tones``."""
        short, half = n_fft // 4, n_fft // 2
        n_samples = len(layers.noise)
        first, last = max(0, start - half), min(n_samples, stop + half)
        power = np.square(layers.noise[first:last], dtype=float).T
        if tones:
            power = power + tones * np.square(layers.tones[first:last]).T
        # Beyond the ends of the sound its power goes on as in the mirror.
        power = np.pad(power, ((0, 0), (first - (start - half), stop + half - last)), "symmetric")
        sums = np.cumsum(np.pad(power, ((0, 0), (1, 0))), axis=1)

        def mean(begin: int, length: int) -> np.ndarray:
            """Mean over ``length`` samples from ``begin`` after each sample on."""
            at, n = half + begin, stop - start
            return np.maximum(sums[:, at + length : at + length + n] - sums[:, at : at + n], 0) / length

        return cls(mean(-half, n_fft), mean(1 - short, short), mean(0, short))


def noise_envelope(layers: Layers, start: int, stop: int, n_fft: int) -> np.ndarray:
    """Factor on generated noise that lets it follow the noise: its level in each channel, and 0 where it is silent.

    A spectrum says nothing about the time within its window, in which noise would begin before the sound does. So the
    noise is lowered where the noise of the last or of the next quarter of a window is 6 dB below that of a window.

    Returns
    -------
    np.ndarray, shape (channels, stop - start), float32; its power is 1 on average over the channels of a steady sound
    """
    # A clean sound has no noise to follow but rounding noise, so a millionth of its tones counts as noise.
    around, past, coming = LocalPower.of(layers, start, stop, n_fft, tones=1e-6)
    tiny = np.finfo(np.float32).tiny
    share = around / np.maximum(around.mean(axis=0), tiny)
    return np.sqrt(share * np.minimum(1, 4 * np.minimum(past, coming) / np.maximum(around, tiny))).astype(np.float32)


def started_share(layers: Layers, start: int, stop: int, n_fft: int, *, with_tones: bool) -> np.ndarray:
    """Factor on what gains that differ between bands change, which is 0 where a sound is about to begin.

    Such gains are a filter, whose response also comes before a start. What is 15 dB quieter than the window around it,
    as noise hardly is by chance, therefore gets less of the change.

    Returns
    -------
    np.ndarray, shape (channels, stop - start), float32, in [0, 1]
    """
    around, past, _ = LocalPower.of(layers, start, stop, n_fft, tones=float(with_tones))
    return np.sqrt(np.minimum(1, 30 * past / np.maximum(around, np.finfo(np.float32).tiny))).astype(np.float32)


def padded_range(y: np.ndarray, start: int, stop: int, n_fft: int, lead: int) -> np.ndarray:
    """Samples ``start`` >= -lead up to ``stop`` of a sound with `edge_padding`, shape (channels, stop - start)."""
    parts = [y[max(0, start) : stop]]
    if start < 0:
        parts.insert(0, edge_padding(y[:n_fft], lead)[:-start][::-1])
    if stop > len(y):
        parts.append(edge_padding(y[: -n_fft - 1 : -1], stop - len(y)))
    return np.ascontiguousarray(np.concatenate(parts).T)
