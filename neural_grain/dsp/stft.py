"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np

from neural_grain.audio.sound import Sound, block_frames, sample_peak
from neural_grain.base.parallel import map_in_order
from neural_grain.dsp.settings import GrainSettings

CUT = 0.02  # share of the loudest sample of a window that the first one may have of a sound that begins in silence
T = TypeVar("T")


def hann_window(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float32, shape (n_fft,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def frame_blocks(blocks: Iterable[np.ndarray], n_fft: int, hop_length: int) -> Iterator[np.ndarray]:
    """Cut a stream of samples into overlapping windows, a block of windows at a time.

    Frame t covers samples t*hop_length to t*hop_length + n_fft; only frames that are full
    are given (pad the stream to have more).

    Yields
    ------
    np.ndarray, shape (channels, frames, n_fft), a read-only view, at most BLOCK_FRAMES frames
    """
    y, n = np.empty((0, 0), np.float32), 0
    for block in blocks:
        n_frames, start = block_frames(block.shape[1]), 0
        while start < len(block):
            if not n:
                y = np.empty((block.shape[1], (n_frames - 1) * hop_length + n_fft), np.float32)
            part = block[start : start + y.shape[1] - n]
            y[:, n : n + len(part)] = part.T
            start, n = start + len(part), n + len(part)
            if n == y.shape[1]:
                yield np.lib.stride_tricks.sliding_window_view(y, n_fft, axis=1)[:, ::hop_length]
                rest = y[:, n_frames * hop_length :]
                y, n = np.empty_like(y), rest.shape[1]  # a new one: the windows are a view of the old
                y[:, :n] = rest
    if n >= n_fft:
        yield np.lib.stride_tricks.sliding_window_view(y[:, :n], n_fft, axis=1)[:, ::hop_length]


def peak_of_frames(windows: np.ndarray, hop_length: int) -> float:
    """`sample_peak` frames that overlap, (channels, frames, n_fft): the first samples of each and all of the last."""
    return max(sample_peak(windows[..., :hop_length]), sample_peak(windows[:, -1]))


def mean_power(D: np.ndarray) -> np.ndarray:
    """Bin powers averaged over channels: (channels, frames, bins) complex -> (frames, bins) float32."""
    parts = D.view(np.float32)  # real, imaginary, real ...
    P = np.square(parts[0])
    for channel in parts[1:]:
        P += np.square(channel)
    return (P[:, ::2] + P[:, 1::2]) / np.float32(len(D))


def starts_abruptly(edge: np.ndarray) -> bool:
    """Whether a sound begins in mid-wave, as a loop does: samples (n, channels) from its edge inwards."""
    return sample_peak(edge[:1]) > CUT * sample_peak(edge)


def edge_padding(edge: np.ndarray, n: int) -> np.ndarray:
    """What is put before a sound, or behind it: its mirror image where it is cut, silence where it begins in silence.

    (Silence beside a cut is a step, which texture makes a click.)

    Parameters
    ----------
    edge : np.ndarray, shape (a window or all, channels), from the edge inwards
    n : int > 0, less than a window

    Returns
    -------
    np.ndarray, shape (n, channels), float32, from the edge outwards
    """
    beyond = np.zeros((n, edge.shape[1]), np.float32)
    if starts_abruptly(edge):
        image = edge[1 : n + 1]
        beyond[: len(image)] = image
    return beyond


def pad_edges(sound: Sound, n_fft: int, hop_length: int) -> Sound:
    """The sound with `edge_padding` around it, so that every sample lies in n_fft / hop_length full windows."""
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


def stft_blocks(
    sound: Sound, settings: GrainSettings, then: Callable[[np.ndarray, np.ndarray], T], threads: int = 1
) -> Iterator[T]:
    """Complex STFT of a sound, a block of frames at a time, with a periodic Hann window, not padded.

    Parameters
    ----------
    then : what is made of each block, on the thread that computed it, from the windows of samples
        (channels, frames, n_fft) and their spectra (channels, frames, n_fft // 2 + 1), complex64
    """
    from scipy.fft import rfft  # imported late: `--help` must not wait for scipy

    n_fft = settings.n_fft_for(sound.sr)
    window = hann_window(n_fft)
    blocks = frame_blocks(sound.blocks(), n_fft, settings.hop_for(sound.sr))
    return map_in_order(lambda y: then(y, rfft(y * window, axis=-1)), blocks, threads)
