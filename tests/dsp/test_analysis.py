"""The analysis of a sound: its grain, the levels of its layers, and its probe."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
from conftest import SR, drone
from rendering import SETTINGS, analysis_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse, bands_and_grain
from neural_grain.dsp.flatness import measure_grain, power_blocks
from neural_grain.dsp.mel import mel_filterbank
from neural_grain.dsp.probe import PROBE, choose_frames
from neural_grain.dsp.settings import STEP_FRAMES

PADDING_FRAMES = 3  # frames before the first that is measured: n_fft / hop_length - 1


def librosa_powers(y: np.ndarray) -> np.ndarray:
    """Powers of the bins of samples (n_samples, channels), averaged over channels: (frames, bins)."""
    D = librosa.stft(np.ascontiguousarray(y.T), n_fft=2048, hop_length=512, center=False)
    return np.square(np.abs(D)).mean(axis=0).T


def test_the_grain_is_that_of_stage_1():
    sound = sound_from_array(np.concatenate([drone(-40), drone(-20, 1.0)]), SR)
    assert analyse(sound, SETTINGS).grain == measure_grain(sound)
    stage_2 = bands_and_grain(sound, SETTINGS)
    assert stage_2.flatness[stage_2.active].mean(dtype=np.float64) == measure_grain(sound)


def test_stage_2_gets_the_bands_of_the_sound_and_of_its_texture():
    y = np.stack([drone(-30), drone(-40, seed=1)], axis=1).astype(np.float32)
    found, layers = bands_and_grain(sound_from_array(y, SR), SETTINGS), analysis_of(y).layers
    weights = mel_filterbank(SETTINGS, SR).T
    np.testing.assert_allclose(found.bands, librosa_powers(y) @ weights, rtol=1e-3)
    np.testing.assert_allclose(found.texture, librosa_powers(layers.transients + layers.noise) @ weights, rtol=1e-3)


def test_the_levels_of_the_steps_are_those_of_tones_and_texture():
    found = analysis_of(drone(-30))
    y = found.layers.tones + found.layers.transients + found.layers.noise
    weights = mel_filterbank(SETTINGS, SR).T
    bands, texture = (
        librosa_powers(samples) @ weights for samples in (y, found.layers.transients + found.layers.noise)
    )
    assert found.band_peak == pytest.approx(bands.max(), rel=1e-3)
    for step in (3, 20, 40):
        frames = slice(step * STEP_FRAMES - PADDING_FRAMES, (step + 1) * STEP_FRAMES - PADDING_FRAMES)
        of_all, of_texture = bands[frames].mean(axis=0), texture[frames].mean(axis=0)
        expected = 10 * np.log10(of_texture / found.band_peak)
        np.testing.assert_allclose(found.texture_db[:, step], np.maximum(expected, -100), atol=0.01)
        expected = 10 * np.log10(np.maximum(of_all - of_texture, 1e-30) / found.band_peak)
        heard = expected > -80  # the difference of two powers that are nearly equal is rounded
        np.testing.assert_allclose(found.tones_db[heard, step], expected[heard], atol=0.05)


@pytest.mark.parametrize("probe_frames", [1536, 50])
def test_the_probe_holds_the_powers_of_the_layers_in_frames_that_are_loud_enough(monkeypatch, probe_frames):
    monkeypatch.setattr("neural_grain.dsp.probe.PROBE", replace(PROBE, max_frames=probe_frames))
    sound = sound_from_array(np.concatenate([np.zeros(2 * SR), drone(-40, 2.0), np.zeros(SR)]), SR)
    found = analyse(sound, SETTINGS)
    probe, frames = found.probe, found.probe.index - PADDING_FRAMES
    assert 30 <= len(frames) <= probe_frames
    assert np.all(np.diff(frames) > 0)
    powers = np.concatenate([block.bins for block in power_blocks(sound, SETTINGS.grain)])
    np.testing.assert_allclose(probe.power, powers[frames], rtol=1e-4, atol=1e-9 * powers.max())
    band, scale = SETTINGS.grain.band_for(SR), powers.max()
    for expected, of_probe in (
        (found.layers.tones, probe.tones),
        (found.layers.transients + found.layers.noise, probe.texture),
    ):
        np.testing.assert_allclose(of_probe, librosa_powers(expected)[frames, band], rtol=1e-3, atol=1e-10 * scale)


def test_the_frames_that_decide_a_mean_are_chosen():
    """Of 20 frames that hold half of all energy or flatness, evenly spaced ones would hold one or two."""
    rng = np.random.default_rng(0)
    energies, flatness = np.ones((2, 20_000))
    for x in (energies, flatness):
        x[rng.choice(len(x), 20, replace=False)] = 1_000
    chosen = choose_frames(energies, flatness)
    assert len(chosen.numbers) <= PROBE.max_frames
    for x in (energies, flatness, np.ones(20_000)):
        assert chosen.weights @ x[chosen.numbers] == pytest.approx(x.sum(), rel=0.02)


def test_the_number_of_threads_changes_nothing():
    sound = sound_from_array(drone(-40, 8.0), SR)
    one, three = analyse(sound, SETTINGS), analyse(sound, SETTINGS, threads=3)
    np.testing.assert_array_equal(one.texture_db, three.texture_db)
    np.testing.assert_array_equal(one.probe.power, three.probe.power)
    assert one.grain == three.grain
