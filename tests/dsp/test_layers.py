"""The layers of a sound: they sum to it, each holds what it is named after, and nothing is put where nothing was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS
from scipy.signal import lfilter

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import layers as dsp_layers
from neural_grain.dsp.layers import LAYERS, Layers, split_layers

EDGE_S = 0.2  # a sound that begins or ends at once has a transient there
RATES = (8_000, 22_050, 48_000, 96_000)


def split(y: np.ndarray, sr: int = SR, threads: int = 1) -> Layers:
    return split_layers(sound_from_array(y.astype(np.float32), sr), SETTINGS.grain, threads)


def arrays(layers: Layers) -> tuple[np.ndarray, ...]:
    return layers.tones, layers.transients, layers.noise


def level_db(part: np.ndarray, whole: np.ndarray, sr: int = SR) -> float:
    """Level of a layer relative to the sound, with the start and the end left out."""
    edge = round(EDGE_S * sr)
    energy = [np.square(y[edge:-edge], dtype=float).sum() for y in (part, whole)]
    return 10 * np.log10(energy[0] / energy[1] + 1e-15)


def clicks(sr: int = SR, duration_s: float = 2.0) -> np.ndarray:
    y = np.zeros(round(sr * duration_s))
    y[[sr // 2, sr, sr + sr // 3]] = 0.7
    return y


def gated_tone(duration_s: float = 2.0) -> np.ndarray:
    """Silence, and a tone that starts at once after one second and lasts half a second."""
    y = np.zeros(round(duration_s * SR))
    y[SR : SR + SR // 2] = np.sin(2 * np.pi * 330 * np.arange(SR // 2) / SR + 1.0) * 0.5
    return y


SOUNDS = {
    "drone": (drone(-40), SR),
    "stereo of clicks and noise": (np.stack([clicks(), noise()], axis=1), SR),
    "six channels": (np.stack([drone(-40, 2.0, seed=i, root_hz=90 + 30 * i) for i in range(6)], axis=1), SR),
    "loop that starts abruptly": (sine(443)[30:-17], SR),
    "odd length": (drone()[:-12_345], SR),
    **{f"{sr} Hz": (drone(-40, 1.0, sr) + clicks(sr, 1.4)[:sr], sr) for sr in RATES},
    **{f"{n} samples": (drone(-30)[100 : 100 + n], SR) for n in (2_048, 2_049, 5_000, 8_192, 12_000)},
}


@pytest.mark.parametrize("name", SOUNDS)
def test_the_sum_of_the_layers_is_the_sound(name):
    y, sr = SOUNDS[name]
    layers = split(y, sr)
    y = y.reshape(len(y), -1)
    assert all(layer.shape == y.shape for layer in arrays(layers))
    np.testing.assert_allclose(sum(arrays(layers)), y, atol=2e-7)


class TestWhatIsWhere:
    @pytest.mark.parametrize("sr", [SR, *RATES])
    def test_a_sine_is_in_the_tones(self, sr):
        y = sine(sr=sr)
        layers = split(y, sr)
        assert level_db(layers.transients + layers.noise, y[:, None], sr) < -60

    @pytest.mark.parametrize("sr", [SR, *RATES])
    def test_white_noise_is_in_the_noise(self, sr):
        y = noise(4, sr=sr)
        layers = split(y, sr)
        assert level_db(layers.noise, y[:, None], sr) > -0.3
        assert level_db(layers.tones, y[:, None], sr) < -20

    @pytest.mark.parametrize("sr", [SR, *RATES])
    def test_clicks_are_in_the_transients(self, sr):
        y = clicks(sr)
        layers = split(y, sr)
        assert level_db(y[:, None] - layers.transients, y[:, None], sr) < -60

    def test_coloured_noise_is_in_the_noise(self):
        y = lfilter([1], [1, -0.95], noise(4, level=0.02))
        assert level_db(split(y).noise, y[:, None]) > -0.6

    def test_clicks_over_a_drone_are_in_the_transients(self):
        y = drone(-60, 2.0) + clicks()
        layers, at = split(y), np.flatnonzero(clicks())
        assert np.all(layers.transients[at, 0] > 0.9 * 0.7)
        away = np.abs(np.arange(len(y)) - at[:, None]).min(axis=0) > 0.05 * SR
        away[: round(EDGE_S * SR)] = away[-round(EDGE_S * SR) :] = False
        assert np.abs(layers.transients[away]).max() < 0.003

    @pytest.mark.parametrize("texture_db", [-60, -40, -25])
    def test_the_texture_of_a_drone_is_found_at_its_level(self, texture_db):
        y, tones = drone(texture_db, 4.0), drone(-300, 4.0)
        texture = split(y).noise + split(y).transients
        assert level_db(texture, (y - tones)[:, None]) == pytest.approx(0, abs=1.5)

    def test_all_channels_are_split_by_the_same_mask(self):
        y = drone(-40)[:, None] * np.array([[1.0, 0.25, -0.5]])
        for layer in arrays(split(y)):
            np.testing.assert_allclose(layer[:, 1:], layer[:, :1] * [[0.25, -0.5]], atol=2e-6)


class TestBeforeAStart:
    """Moving a layer must not put anything where the sound was silent."""

    @pytest.mark.parametrize("others", [0, 1, 3, 7])
    def test_no_layer_begins_before_a_gated_tone_in_digital_silence(self, others):
        pads = [drone(-40, 2.0, seed=i, root_hz=80 + 20 * i) for i in range(others)]
        layers = split(np.stack([*pads, gated_tone()], axis=1))
        before = slice(None, SR - round(0.0005 * SR))
        assert max(np.abs(layer[before, -1]).max() for layer in arrays(layers)) == 0

    def test_the_transient_of_a_drum_does_not_begin_before_it(self):
        y, at, n = drone(-50, 4.0), 2 * SR, SR // 7
        y[at : at + n] += 0.4 * np.exp(-np.arange(n) / (0.03 * SR)) * noise(n / SR, level=1.0)
        assert np.abs(split(y).transients[at - SR // 50 : at - 50]).max() == 0

    def test_the_noise_just_before_a_drum_over_a_drone_is_as_quiet_as_without_it(self):
        """Unless it is taken out, the long window spreads the drum to 22 dB above the noise that is there."""
        background, at, n = drone(-50, 4.0), 2 * SR, SR // 7
        y = background.copy()
        y[at : at + n] += 0.25 * np.exp(-np.arange(n) / (0.03 * SR)) * noise(1.0, level=1.0)[:n].clip(-2, 2)
        before = slice(at - round(0.01 * SR), at - round(0.0005 * SR))
        with_drum, without = (split(each).noise[before, 0].std() for each in (y, background))
        assert 20 * np.log10(with_drum / without) < 6

    def test_little_of_a_click_over_a_drone_lies_before_it(self):
        background = drone(-50, 4.0)
        y, at = background.copy(), 2 * SR
        y[at] += 0.7
        added = split(y).noise - split(background).noise + split(y).transients - split(background).transients
        assert np.abs(added[at - SR // 50 : at - 22]).max() < 0.7 * 10 ** (-50 / 20)


class TestNothingElseMatters:
    Y = drone(-40) + clicks(duration_s=3.0) + np.where(np.arange(3 * SR) % SR < SR // 9, noise(3), 0)

    @pytest.mark.parametrize("gain_db", [-60, 40])
    def test_the_level_of_the_sound_only_scales_its_layers(self, gain_db):
        gain = 10 ** (gain_db / 20)
        for one, other in zip(arrays(split(self.Y)), arrays(split(self.Y * gain)), strict=True):
            np.testing.assert_allclose(other / gain, one, atol=2e-6)

    @pytest.mark.parametrize("sr", [SR, *RATES])
    @pytest.mark.parametrize("windows", [1, 5])
    def test_the_length_of_the_pieces_does_not(self, monkeypatch, windows, sr):
        whole = arrays(split(self.Y, sr))
        monkeypatch.setattr(dsp_layers, "LAYERS", replace(LAYERS, chunk_windows=windows))
        for one, other in zip(whole, arrays(split(self.Y, sr)), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5)  # -100 dB: what lies beyond the margin of a piece

    def test_the_number_of_threads_does_not(self, monkeypatch):
        monkeypatch.setattr(dsp_layers, "LAYERS", replace(LAYERS, chunk_windows=2))
        for one, other in zip(arrays(split(self.Y)), arrays(split(self.Y, threads=3)), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("block", [100, 3_001])
    def test_the_blocks_in_which_the_sound_is_read_do_not(self, block):
        sound = sound_from_array(self.Y.astype(np.float32), SR)
        y = self.Y.astype(np.float32)[:, None]
        cut = replace(sound, blocks=lambda: (y[i : i + block] for i in range(0, len(y), block)))
        for one, other in zip(
            arrays(split_layers(sound, SETTINGS.grain)), arrays(split_layers(cut, SETTINGS.grain)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
