"""The short-time Fourier transform (STFT) of a sound, block by block, and the padding of a sound at its edges.

    D[t, k] = sum over n of y[t hop_length + n] w[n] exp(-2j pi k n / n_fft),   w a periodic Hann window

It equals ``librosa.stft(center=False)``, which needs the whole sound in memory. The loop is our own so that a file of
any length passes through it, on several threads if wanted.

In: a `Sound`. Out: blocks of windows, shape (channels, frames, n_fft), and of spectra, (channels, frames, bins).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np

from neural_grain.audio.sound import Sound, block_frames, sample_peak
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.settings import GrainSettings

# A sound fades in if its first sample is at most this share of the largest one in its first window.
MAX_FADE_IN_RATIO = 0.02
T = TypeVar("T")


def hann_window(n_fft: int) -> np.ndarray:
    """Periodic Hann window, shape (n_fft,), float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def frame_blocks(blocks: Iterable[np.ndarray], n_fft: int, hop_length: int) -> Iterator[np.ndarray]:
    """Cut a stream of samples into overlapping windows.

    Frame t covers the samples from t * hop_length up to but not including t * hop_length + n_fft. Only full frames
    are returned; pad the stream to get more.

    Parameters
    ----------
    blocks : np.ndarray, shape (samples, channels), of any lengths
    n_fft : int > 0
    hop_length : int > 0

    Yields
    ------
    np.ndarray, shape (channels, frames, n_fft), float32, read-only; every block but the last has `block_frames` frames
    """
    y, n_filled = np.empty((0, 0), np.float32), 0
    for block in blocks:
        n_frames, start = block_frames(block.shape[1]), 0
        while start < len(block):
            if not n_filled:
                y = np.empty((block.shape[1], (n_frames - 1) * hop_length + n_fft), np.float32)
            part = block[start : start + y.shape[1] - n_filled]
            y[:, n_filled : n_filled + len(part)] = part.T
            start, n_filled = start + len(part), n_filled + len(part)
            if n_filled == y.shape[1]:
                yield np.lib.stride_tricks.sliding_window_view(y, n_fft, axis=1)[:, ::hop_length]
                rest = y[:, n_frames * hop_length :]
                y, n_filled = np.empty_like(y), rest.shape[1]  # a new array, because the windows are a view of the old
                y[:, :n_filled] = rest
    if n_filled:
        sample_peak(y[:, :n_filled])  # the last samples may be in no full frame, and must not be absurd either
    if n_filled >= n_fft:
        yield np.lib.stride_tricks.sliding_window_view(y[:, :n_filled], n_fft, axis=1)[:, ::hop_length]


def frames_peak(windows: np.ndarray, hop_length: int) -> float:
    """`sample_peak` of overlapping windows (channels, frames, n_fft), from the part of each that is new."""
    return max(sample_peak(windows[..., :hop_length]), sample_peak(windows[:, -1]))


def mean_power(D: np.ndarray) -> np.ndarray:
    """Powers of the bins, averaged over channels: (channels, frames, bins) complex64 -> (frames, bins) float32.

    Power is averaged and not samples, because channels of opposite phase would cancel.
    """
    parts = D.view(np.float32)  # (channels, frames, 2 bins): real and imaginary parts alternate
    P = np.square(parts[0])
    for channel in parts[1:]:
        P += np.square(channel)
    return (P[:, ::2] + P[:, 1::2]) / np.float32(len(D))


def starts_abruptly(edge: np.ndarray) -> bool:
    """Whether a sound begins in the middle of a wave, as a loop does.

    Parameters
    ----------
    edge : np.ndarray, shape (n, channels), the samples of one window, the one at the edge first
    """
    return sample_peak(edge[:1]) > MAX_FADE_IN_RATIO * sample_peak(edge)


def edge_padding(edge: np.ndarray, n: int) -> np.ndarray:
    """Samples to put before or after a sound: its mirror image if it starts abruptly, otherwise silence.

    Silence beside an abrupt start would be a step, which rendering with more texture turns into a click.

    Parameters
    ----------
    edge : np.ndarray, shape (up to n_fft, channels), the sample at the edge first
    n : int > 0, less than n_fft

    Returns
    -------
    np.ndarray, shape (n, channels), float32, the sample next to the edge first
    """
    padding = np.zeros((n, edge.shape[1]), np.float32)
    if starts_abruptly(edge):
        image = edge[1 : n + 1]
        padding[: len(image)] = image
    return padding


def pad_edges(sound: Sound, n_fft: int, hop_length: int) -> Sound:
    """The sound with `edge_padding` on both sides, so that each of its samples lies in n_fft / hop_length frames."""
    before = n_fft - hop_length
    after = -(sound.n_samples + before) % hop_length + before

    def blocks() -> Iterator[np.ndarray]:
        source = iter(sound.blocks())
        head = np.zeros((0, sound.channels), np.float32)
        while len(head) < min(n_fft, sound.n_samples):
            head = np.concatenate((head, next(source)))
        yield edge_padding(head[:n_fft], before)[::-1]
        tail = head[:0]
        for block in chain([head], source):
            yield block
            tail = np.concatenate((tail, block[-n_fft:]))[-n_fft:]
        yield edge_padding(tail[::-1], after)

    return replace(sound, n_samples=before + sound.n_samples + after, blocks=blocks)


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


def n_full_frames(n_samples: int, n_fft: int, hop_length: int) -> int:
    """Number of full frames in ``n_samples`` >= n_fft samples."""
    return (n_samples - n_fft) // hop_length + 1


def stft_blocks(
    sound: Sound, settings: GrainSettings, reduce: Callable[[np.ndarray, float], T], threads: int = 1
) -> Iterator[T]:
    """Compute the STFT of a sound without padding, and reduce each block of it at once.

    Parameters
    ----------
    sound : Sound
    settings : GrainSettings, gives n_fft and hop_length at the sound's rate
    reduce : called on the thread that computed the block, with the spectra, shape (channels, frames, n_fft // 2 + 1),
        complex64, and the largest absolute sample of the block
    threads : int > 0

    Yields
    ------
    The results of ``reduce``, in order
    """
    from scipy.fft import rfft  # imported late, so that `--help` does not wait for scipy

    n_fft, hop_length = settings.n_fft_for(sound.sr), settings.hop_for(sound.sr)
    window = hann_window(n_fft)

    def transform(windows: np.ndarray) -> T:
        peak = frames_peak(windows, hop_length)  # first, because it refuses samples that are not finite
        return reduce(rfft(windows * window, axis=-1), peak)

    return map_in_order(transform, frame_blocks(sound.blocks(), n_fft, hop_length), threads)
