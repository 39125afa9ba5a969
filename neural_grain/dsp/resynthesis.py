"""From gains to audio: the complex STFT of a sound times its gains, and back by overlap-add.

    D'[t, k] = D[t, k] exp(ln(10) / 20 gain_db[t, k] + 1j phase[t, k]),   phase = 0 except at onsets

The windows are multiplied with the Hann window before the transform and again after its inverse. Its squares sum to
3/8 n_fft / hop_length, so with gains of 0 dB the output equals the input to float precision (Griffin and Lim,
"Signal estimation from modified short-time Fourier transform", IEEE TASSP 32(2), 1984).

The phase of the sound stays as it is, with one exception. A gain without phase spreads a click to both sides, and the
part before it is audible as pre-echo. So what is new in a window in which a sound begins gets the gain with minimum
phase, which spreads it only to what follows (Oppenheim and Schafer, "Discrete-Time Signal Processing", 12.2).

In: a `Sound`, and gains in dB, shape (n_mels, steps). Out: samples, shape (samples, channels), float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.base.parallel import ONE_BLAS_THREAD, map_in_order
from neural_grain.dsp.gains import lerp_weights
from neural_grain.dsp.mel import band_interpolation
from neural_grain.dsp.settings import NEPER_PER_DB, STEP_FRAMES, SpectrogramSettings
from neural_grain.dsp.stft import edge_padding, frame_blocks, hann_window, pad_edges

PIECE_STEPS = 1024  # 48 s: gains are computed for this many steps at a time, so that a long sound needs no more memory

StepGains = Callable[[int, int], np.ndarray]
"""Gives the gains in dB, shape (n_mels, steps), of the steps from one number up to but not including another."""


class FrameBlock(NamedTuple):
    """Consecutive frames of a sound, and the gains of the steps around them."""

    first_frame: int
    windows: np.ndarray  # (channels, frames, n_fft), samples
    earlier: np.ndarray  # (channels, 2 overlap, n_fft), the windows before the first
    first_step: int
    gain_db: np.ndarray  # (n_mels, steps) from the first step on


def predict_next_frame(before: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Predict a spectrum as if nothing began in its window: steady tones keep turning their phase at the same rate.

    Parameters
    ----------
    before, last : np.ndarray, complex spectra of two adjacent windows

    Returns
    -------
    np.ndarray, complex64, of the same shape
    """
    rotation = last * np.conj(before)
    return last * rotation / np.maximum(np.abs(rotation), np.finfo(np.float32).tiny)


def minimum_phase(log_gain: np.ndarray) -> np.ndarray:
    """Phase of the minimum-phase filter with some gains: the Hilbert transform of their logarithm.

    It is computed by folding the cepstrum (Oppenheim and Schafer, 12.2) and is linear in ``log_gain``.

    Parameters
    ----------
    log_gain : np.ndarray, shape (rows, n_fft // 2 + 1), natural logarithm of the amplitude

    Returns
    -------
    np.ndarray, shape (rows, n_fft // 2 + 1), float32, radians
    """
    from scipy.fft import irfft, rfft

    cepstrum = irfft(log_gain.astype(float), axis=-1)
    half = cepstrum.shape[-1] // 2
    cepstrum[:, 1:half] *= 2
    cepstrum[:, half + 1 :] = 0
    return rfft(cepstrum, axis=-1).imag.astype(np.float32)


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


def overlap_add(frames: np.ndarray, hop_length: int) -> np.ndarray:
    """Sum frames at intervals of ``hop_length``, which divides their length.

    Parameters
    ----------
    frames : np.ndarray, shape (channels, n, n_fft), float32

    Returns
    -------
    np.ndarray, shape (channels, (n - 1) hop_length + n_fft), float32
    """
    channels, n_frames, n_fft = frames.shape
    overlap = n_fft // hop_length
    out = np.zeros((channels, (n_frames + overlap - 1) * hop_length), np.float32)
    for part in range(overlap):
        piece = frames[:, :, part * hop_length : (part + 1) * hop_length]
        out[:, part * hop_length : (part + n_frames) * hop_length] += piece.reshape(channels, -1)
    return out


class SpectralGain:
    """Applies gains to blocks of frames.

    All channels get the same gain, so the stereo image stays. Below the analysis band nothing changes, because grain
    is not measured there.

    Parameters
    ----------
    settings : SpectrogramSettings
    sr : int > 0, Hz
    onset : np.ndarray, shape (frames of the padded sound,), in [0, 1]
        How much of the minimum phase each frame gets; None for zero phase everywhere.
    """

    def __init__(self, settings: SpectrogramSettings, sr: int, onset: np.ndarray | None = None):
        self.n_fft, self.hop_length = settings.grain.n_fft_for(sr), settings.grain.hop_for(sr)
        self.overlap = self.n_fft // self.hop_length
        self._onset = onset
        self._window = hann_window(self.n_fft)
        # Half of NEPER_PER_DB, because gains in dB are gains of power and these are factors on the amplitude.
        self._to_log_gain = np.float32(NEPER_PER_DB / 2) * band_interpolation(settings, sr)
        self._to_log_gain[:, : settings.grain.band_for(sr).start] = 0
        self._to_phase = minimum_phase(self._to_log_gain)

    @ONE_BLAS_THREAD
    def apply(self, block: FrameBlock, level: float = 1.0) -> np.ndarray:
        """Apply the gains of a block and a factor ``level`` to its frames, and overlap-add them.

        Returns
        -------
        np.ndarray, shape (channels, (frames - 1) hop_length + n_fft), float32
        """
        from scipy.fft import irfft, rfft

        D = rfft(block.windows * self._window, axis=-1)
        times = (np.arange(block.first_frame, block.first_frame + D.shape[1]) + 0.5) / STEP_FRAMES - block.first_step
        self._add_onset_phase(D, block, times)
        D *= np.exp(interpolate_gains(block.gain_db, times, self._to_log_gain))
        frames = irfft(D, self.n_fft, axis=-1)
        frames *= self._window * np.float32(level / (0.375 * self.overlap))
        return overlap_add(frames, self.hop_length)

    def _add_onset_phase(self, D: np.ndarray, block: FrameBlock, times: np.ndarray) -> None:
        """Turn the phase of what is new at the onsets of a block, in place."""
        from scipy.fft import rfft

        if self._onset is None:
            return
        onset = self._onset[block.first_frame : block.first_frame + D.shape[1]]
        at = np.flatnonzero(onset)
        if len(at):
            # Of each frame, the windows at 2 and at 1 times n_fft before it, which do not overlap it or each other.
            history = np.concatenate((rfft(block.earlier * self._window, axis=-1), D), axis=1)
            new = D[:, at] - predict_next_frame(history[:, at], history[:, at + self.overlap])
            phase = onset[at, None] * interpolate_gains(block.gain_db, times[at], self._to_phase)
            D[:, at] += (np.exp(1j * phase) - 1) * new


def render_blocks(
    sound: Sound,
    gains: StepGains,
    spectral_gain: SpectralGain,
    level: float = 1.0,
    *,
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Apply gains and a factor ``level`` to a whole sound, block by block.

    Yields
    ------
    np.ndarray, shape (samples, channels), float32, ``sound.n_samples`` in all
    """
    lead = spectral_gain.n_fft - spectral_gain.hop_length  # samples of padding before the sound, not part of the output
    skip, left = lead, sound.n_samples
    tail = np.zeros((sound.channels, lead), np.float32)
    blocks = _frame_blocks_with_gains(sound, gains, spectral_gain)
    for out in map_in_order(lambda block: spectral_gain.apply(block, level), blocks, threads):
        out[:, :lead] += tail
        n_done = out.shape[1] - lead
        done, tail = out[:, :n_done], out[:, n_done:]
        ready = np.ascontiguousarray(done[:, skip : skip + left].T)
        skip, left = max(0, skip - n_done), left - len(ready)
        if len(ready):
            yield ready


def _frame_blocks_with_gains(sound: Sound, gains: StepGains, spectral_gain: SpectralGain) -> Iterator[FrameBlock]:
    """Cut a padded sound into blocks of frames with their gains, which are computed PIECE_STEPS at a time."""
    n_fft, hop_length, overlap = spectral_gain.n_fft, spectral_gain.hop_length, spectral_gain.overlap
    padded = pad_edges(sound, n_fft, hop_length)
    first_frame, earlier = 0, np.zeros((sound.channels, 2 * overlap, n_fft), np.float32)
    first_step, gain_db = 0, np.empty((0, 0), np.float32)
    for windows in frame_blocks(padded.blocks(), n_fft, hop_length):
        if (first_frame + windows.shape[1]) // STEP_FRAMES + 1 > first_step + gain_db.shape[1]:
            first_step = max(0, first_frame // STEP_FRAMES - 1)
            gain_db = gains(first_step, first_step + PIECE_STEPS)
        yield FrameBlock(first_frame, windows, earlier, first_step, gain_db)
        first_frame += windows.shape[1]
        earlier = np.concatenate((earlier, windows[:, -2 * overlap :]), axis=1)[:, -2 * overlap :]


def render_range(
    y: np.ndarray, gains: StepGains, spectral_gain: SpectralGain, start: int, stop: int, level: float = 1.0
) -> np.ndarray:
    """Render the samples from ``start`` up to but not including ``stop``, as `render_blocks` gives them.

    Parameters
    ----------
    y : np.ndarray, shape (n_samples, channels), the whole sound before rendering

    Returns
    -------
    np.ndarray, shape (stop - start, channels), float32
    """
    n_fft, hop_length, overlap = spectral_gain.n_fft, spectral_gain.hop_length, spectral_gain.overlap
    lead = n_fft - hop_length  # frame t begins at sample t * hop_length - lead
    first_frame = max(0, (start + lead - n_fft) // hop_length + 1)
    last_frame = (stop - 1 + lead) // hop_length
    earliest_frame = max(0, first_frame - 2 * overlap)
    piece = _padded_range(y, earliest_frame * hop_length - lead, last_frame * hop_length + hop_length, n_fft, lead)
    windows = np.lib.stride_tricks.sliding_window_view(piece, n_fft, axis=1)[:, ::hop_length]
    first_step = max(0, first_frame // STEP_FRAMES - 1)
    gain_db = gains(first_step, last_frame // STEP_FRAMES + 2)
    n_earlier = first_frame - earliest_frame
    earlier = np.zeros((y.shape[1], 2 * overlap, n_fft), np.float32)  # silent before the first frame
    earlier[:, 2 * overlap - n_earlier :] = windows[:, :n_earlier]
    out = spectral_gain.apply(FrameBlock(first_frame, windows[:, n_earlier:], earlier, first_step, gain_db), level)
    at = start + lead - first_frame * hop_length
    return np.ascontiguousarray(out[:, at : at + stop - start].T)


def _padded_range(y: np.ndarray, start: int, stop: int, n_fft: int, lead: int) -> np.ndarray:
    """Samples ``start`` >= -lead up to ``stop`` of a sound with `edge_padding`, shape (channels, stop - start)."""
    parts = [y[max(0, start) : stop]]
    if start < 0:
        parts.insert(0, edge_padding(y[:n_fft], lead)[:-start][::-1])
    if stop > len(y):
        parts.append(edge_padding(y[: -n_fft - 1 : -1], stop - len(y)))
    return np.ascontiguousarray(np.concatenate(parts).T)
