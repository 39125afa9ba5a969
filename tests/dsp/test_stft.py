"""The STFT in blocks, against librosa."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from conftest import SR, noise

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.settings import GrainSettings
from neural_grain.dsp.stft import MAX_FADE_IN_RATIO, frame_blocks, starts_abruptly, stft_blocks


@pytest.mark.parametrize("lengths", [[100], [2048, 1], [33_000], [7, 50_000]])
def test_frames_do_not_depend_on_the_lengths_of_the_blocks(lengths):
    y = noise(1.0)[:, None].astype(np.float32)
    blocks, start = [], 0
    while start < len(y):
        length = lengths[len(blocks) % len(lengths)]
        blocks.append(y[start : start + length])
        start += length
    frames = np.concatenate(list(frame_blocks(blocks, 2048, 512)), axis=1)
    np.testing.assert_array_equal(frames[0], librosa.util.frame(y[:, 0], frame_length=2048, hop_length=512).T)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_spectra_equal_those_of_librosa(threads):
    y = np.stack([noise(2.0), noise(2.0, seed=1)], axis=1).astype(np.float32)
    blocks = stft_blocks(sound_from_array(y, SR), GrainSettings(), lambda D, _: D, threads)
    D = np.concatenate(list(blocks), axis=1)
    expected = librosa.stft(y.T, n_fft=2048, hop_length=512, center=False).transpose(0, 2, 1)
    np.testing.assert_allclose(D, expected, atol=1e-4)


@pytest.mark.parametrize("level", [1.0, 1e-3, 10.0])
def test_a_sound_starts_abruptly_if_its_first_sample_is_large_beside_what_follows(level):
    edge = np.full((2048, 2), -level)
    for first, expected in ((1.01, True), (0.99, False)):
        edge[0] = first * MAX_FADE_IN_RATIO * level
        assert starts_abruptly(edge) is expected
    assert not starts_abruptly(np.zeros((2048, 1)))
