"""TODO"""

from __future__ import annotations

import numpy as np

from neural_grain.audio.sound import Sound
from neural_grain.base.files import scratch_array
from neural_grain.dsp.settings import SpectrogramSettings
from neural_grain.dsp.stft import mean_power, stft_blocks

PIECE_FRAMES = 4096  # what is worked on at a time where a sound is long


def interpolation_matrix(at: np.ndarray, n: int) -> np.ndarray:
    """Linear interpolation: what each of the points 0 to n - 1 counts at the places ``at``, 1 on it and 0 one away.

    Returns
    -------
    np.ndarray, shape (n, len(at)), float64
    """
    weights, below = np.zeros((n, len(at))), np.floor(at).astype(int)
    for i in (below, below + 1):
        inside = np.flatnonzero((i >= 0) & (i < n))
        weights[i[inside], inside] = 1 - np.abs(at - i)[inside]
    return weights


def mel_filterbank(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """Mel filterbank: each band's power is a weighted mean of bin powers.

    The triangles of ``librosa.filters.mel(norm=None)``, each divided by its sum. A band narrower
    than a bin takes its nearest bin; a band above Nyquist is empty.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32, rows sum to 1 (or to 0 above Nyquist)
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    edges = settings.band_edges_hz
    # In the scale of edge numbers each triangle is 2 wide and as high as its distance to the bin leaves it.
    weights = interpolation_matrix(np.interp(hz, edges, np.arange(-1, settings.n_mels + 1)), settings.n_mels)
    for b in np.flatnonzero(weights.sum(axis=1) == 0):
        if edges[b + 1] <= sr / 2:
            weights[b, round(edges[b + 1] * n_fft / sr)] = 1.0
    sums = weights.sum(axis=1, keepdims=True)
    return (weights / np.where(sums > 0, sums, 1)).astype(np.float32)


def band_interpolation(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """The way back: linear interpolation from band centres to bins, held beyond the first and last.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32, columns sum to 1
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    centres = settings.band_edges_hz[1:-1]
    return interpolation_matrix(np.interp(hz, centres, np.arange(settings.n_mels)), settings.n_mels).astype(np.float32)


def band_fractions(settings: SpectrogramSettings) -> np.ndarray:
    """Share of the analysis band's bins that each mel band stands for. Shape (n_mels,), sums to 1."""
    sr = settings.grain.sample_rate_hz
    counts = band_interpolation(settings, sr)[:, settings.grain.band_for(sr)].sum(axis=1)
    return counts / counts.sum()


def log_mel(band_powers: np.ndarray, dynamic_range_db: float, peak: float | None = None) -> np.ndarray:
    """Normalised log-mel picture: 1 in the loudest band, 0 at and below the floor.

    Parameters
    ----------
    band_powers : np.ndarray, shape (frames, n_mels), >= 0, not all 0
    dynamic_range_db : float > 0, between 1 and 0
    peak : float > 0, band power that reads 1 (to compare two sounds); the loudest of these if None

    Returns
    -------
    np.ndarray, shape (n_mels, frames), float32, in [0, 1]
    """
    peak = float(band_powers.max()) if peak is None else peak
    if not peak > 0:
        raise ValueError(f"peak={peak} must be positive")
    floor = np.float32(peak * 10 ** (-dynamic_range_db / 10))
    db = 10 * np.log10(np.maximum(band_powers, floor) / np.float32(peak))
    return np.ascontiguousarray(np.clip(1 + db / dynamic_range_db, 0, 1).T, dtype=np.float32)


def band_powers_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Mel band powers of a sound, (frames, n_mels) float32: the frames that stage 1 measures."""
    n_fft, hop_length = settings.grain.n_fft_for(sound.sr), settings.grain.hop_for(sound.sr)
    weights = mel_filterbank(settings, sound.sr).T
    powers = scratch_array((settings.n_mels, (sound.n_samples - n_fft) // hop_length + 1)).T
    at = 0
    for block in stft_blocks(sound, settings.grain, lambda _, D: mean_power(D) @ weights):
        powers[at : at + len(block)] = block
        at += len(block)
    return powers


def log_mel_of(sound: Sound, settings: SpectrogramSettings) -> np.ndarray:
    """Normalised log-mel picture of a sound, (n_mels, frames)."""
    x = band_powers_of(sound, settings).T
    powers_to_log_mel(x, settings.dynamic_range_db)
    return x


def powers_to_log_mel(x: np.ndarray, dynamic_range_db: float) -> None:
    """Turn the band powers of a whole sound, (n_mels, frames), into its normalised log-mel picture, piece by piece."""
    pieces = [slice(i, i + PIECE_FRAMES) for i in range(0, x.shape[1], PIECE_FRAMES)]
    peak = max(float(x[:, piece].max()) for piece in pieces)
    for piece in pieces:
        x[:, piece] = log_mel(x[:, piece].T, dynamic_range_db, peak)
