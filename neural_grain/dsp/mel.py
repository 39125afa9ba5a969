"""Mel bands and the log-mel picture, which is what the model sees of a sound.

Band b is a triangle from ``band_edges_hz[b]`` to ``band_edges_hz[b + 2]``, and its power is a weighted mean of bin
powers. A picture shows the levels of all bands on a scale from 0 to 1:

    x[b, t] = clip(1 + 10 log10(P[t, b] / max P) / dynamic_range_db, 0, 1)

The filterbank is our own because the edges come from the settings of the model instead of a formula, and because a
band that is narrower than a bin would be empty in librosa's. Otherwise the triangles are the same.

In: powers of bins or bands, shape (frames, n). Out: filterbanks, shape (n_mels, bins), and pictures, (n_mels, frames).
"""

from __future__ import annotations

import numpy as np

from neural_grain.dsp.settings import SpectrogramSettings

PIECE_FRAMES = 4096  # frames of a picture that are converted at a time: 2 MB of temporary arrays


def interpolation_matrix(at: np.ndarray, n: int) -> np.ndarray:
    """Weights of linear interpolation between the points 0 to n - 1.

    Parameters
    ----------
    at : np.ndarray, shape (m,), places to interpolate at; the weights of places beyond the points fall to 0
    n : int > 0

    Returns
    -------
    np.ndarray, shape (n, m), float64; ``values @ weights`` interpolates values of shape (n,)
    """
    weights, below = np.zeros((n, len(at))), np.floor(at).astype(int)
    for i in (below, below + 1):
        inside = np.flatnonzero((i >= 0) & (i < n))
        weights[i[inside], inside] = 1 - np.abs(at - i)[inside]
    return weights


def mel_filterbank(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """Weights of the bins in the power of each band.

    They are the triangles of ``librosa.filters.mel(norm=None)``, each divided by its sum. A band that is narrower than
    a bin takes the nearest bin, and a band above Nyquist is empty.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32; rows sum to 1, or to 0 above Nyquist
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    edges = settings.band_edges_hz
    # Counted in edges, every triangle is 2 wide and falls linearly from its centre, as interpolation weights do.
    weights = interpolation_matrix(np.interp(hz, edges, np.arange(-1, settings.n_mels + 1)), settings.n_mels)
    for b in np.flatnonzero(weights.sum(axis=1) == 0):
        if edges[b + 1] <= sr / 2:
            weights[b, round(edges[b + 1] * n_fft / sr)] = 1.0
    sums = weights.sum(axis=1, keepdims=True)
    return (weights / np.where(sums > 0, sums, 1)).astype(np.float32)


def band_interpolation(settings: SpectrogramSettings, sr: int) -> np.ndarray:
    """Weights that interpolate from band centres to bins; beyond the first and last centre the value is constant.

    Returns
    -------
    np.ndarray, shape (n_mels, n_fft // 2 + 1), float32; columns sum to 1
    """
    n_fft = settings.grain.n_fft_for(sr)
    hz = np.arange(n_fft // 2 + 1) * sr / n_fft
    centres = settings.band_edges_hz[1:-1]
    return interpolation_matrix(np.interp(hz, centres, np.arange(settings.n_mels)), settings.n_mels).astype(np.float32)


def band_fractions(settings: SpectrogramSettings) -> np.ndarray:
    """Fraction of the bins of the analysis band that each mel band stands for. Shape (n_mels,), sums to 1."""
    sr = settings.grain.sample_rate_hz
    counts = band_interpolation(settings, sr)[:, settings.grain.band_for(sr)].sum(axis=1)
    return counts / counts.sum()


def log_mel(band_powers: np.ndarray, dynamic_range_db: float, peak: float | None = None) -> np.ndarray:
    """Convert band powers to a log-mel picture.

    Parameters
    ----------
    band_powers : np.ndarray, shape (frames, n_mels), >= 0
    dynamic_range_db : float > 0, from 0 to 1 in the picture
    peak : float > 0, band power that becomes 1; the largest of ``band_powers`` if None

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


def powers_to_log_mel(x: np.ndarray, dynamic_range_db: float, peak: float | None = None) -> float:
    """Convert the band powers of a whole sound, shape (n_mels, frames), to its picture in place, piece by piece.

    Parameters
    ----------
    peak : float > 0, as for `log_mel`

    Returns
    -------
    float, the peak
    """
    pieces = [slice(i, i + PIECE_FRAMES) for i in range(0, x.shape[1], PIECE_FRAMES)]
    peak = max(float(x[:, piece].max()) for piece in pieces) if peak is None else peak
    for piece in pieces:
        x[:, piece] = log_mel(x[:, piece].T, dynamic_range_db, peak)
    return peak
