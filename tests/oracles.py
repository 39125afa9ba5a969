"""Slow, independent implementations that the product is compared with."""

from __future__ import annotations

import librosa
import numpy as np


def librosa_grain(y: np.ndarray, sr: int) -> float:
    """Grain from its definition with librosa: relative to the loudest bin, 50 Hz to 15 kHz, frames within 40 dB."""
    n_fft = {22_050: 1024, 44_100: 2048, 48_000: 2048, 96_000: 4096}[sr]
    channels = np.atleast_2d(y.T)
    D = librosa.stft(channels, n_fft=n_fft, hop_length=n_fft // 4, center=False)
    hz = librosa.fft_frequencies(sr=sr, n_fft=n_fft)
    P = np.mean(np.abs(D) ** 2, axis=0)[(hz >= 50) & (hz <= 15_000)]
    frame_flatness = librosa.feature.spectral_flatness(S=np.sqrt(P / P.max()), amin=1e-10)[0]
    energy = P.sum(axis=0)
    return float(frame_flatness[energy >= energy.max() * 1e-4].mean())
