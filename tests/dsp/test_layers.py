"""The layers of a sound: they sum to it, each holds what it is named after, and nothing is put where nothing was."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS
from scipy.signal import lfilter

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import layers as dsp_layers
from neural_grain.dsp.layers import (
    LAYERS,
    Layers,
    _at_samples,
    _hop_energy,
    _possible_share,
    _share_before_transients,
    split_layers,
    transient_gate,
)
from neural_grain.dsp.settings import MIN_SAMPLE_RATE_HZ

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
    "lowest rate": (noise(3.0, MIN_SAMPLE_RATE_HZ), MIN_SAMPLE_RATE_HZ),
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


def test_memory_beside_the_layers_does_not_grow_with_the_length():
    def peak_bytes(duration_s: float) -> int:
        y = noise(duration_s, 8_000).astype(np.float32)[:, None]
        tracemalloc.start()
        layers = split_layers(sound_from_array(y, 8_000), SETTINGS.grain)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - sum(layer.nbytes for layer in arrays(layers))

    assert abs(peak_bytes(240) - peak_bytes(120)) < 1e6


def slow_energy(x: np.ndarray, hop: int) -> np.ndarray:
    """Sum of squares of each hop over its nominal length, also for the last one, which may be shorter."""
    return np.stack([(x[:, i : i + hop].astype(float) ** 2).sum(axis=1) / hop for i in range(0, x.shape[1], hop)], 1)


def around(values: np.ndarray, first: int, last: int) -> np.ndarray:
    """Values (rows, n) from ``first`` to ``last`` places after each, with the ends continued: (rows, n, places)."""
    n = values.shape[1]
    return values[:, np.clip(np.arange(n)[:, None] + np.arange(first, last + 1), 0, n - 1)]


def slow_gate(x: np.ndarray, hop: int) -> np.ndarray:
    """`transient_gate` at the hops, from its description."""
    energy = slow_energy(np.diff(x, prepend=x[:, :1]), hop)
    energy = np.pad(energy, ((0, 0), (0, -energy.shape[1] % 16)), mode="edge")
    groups = energy.reshape(len(x), -1, 16)
    quiet = np.sort(around(groups.mean(axis=2), -32, 32), axis=2)[..., int(0.2 * 65)]
    spread = 1e-3 * around(groups.max(axis=2), -16, 16).max(axis=2)
    smooth = around(energy, -1, 1).mean(axis=2)
    ahead = around(smooth, 0, 31).max(axis=2)
    reference = np.maximum(np.maximum(quiet, spread).repeat(16, axis=1), 0.05 * ahead)
    above_db = 10 * np.log10((smooth / np.maximum(reference, 1e-37)).max(axis=0) + 1e-9)
    return around(np.clip((above_db - 7) / 3, 0, 1)[None], -15, 0).max(axis=2)[0]


@pytest.fixture
def clicks_over_noise() -> np.ndarray:
    """Noise with clicks that are louder, a little louder, and hardly louder, in two channels."""
    y = np.stack([noise(1.5, level=0.01), noise(1.5, seed=1, level=0.003)])
    for i, level in enumerate((0.8, 0.1, 0.05, 0.04, 0.03, 0.02)):
        y[i % 2, 7_000 + 9_001 * i] += level
    return y.astype(np.float32)


class TestStepByStep:
    @pytest.mark.parametrize("n", [64, 65, 79, 80])
    def test_the_energy_of_hops(self, n):
        x = noise(0.1)[: 2 * n].reshape(2, n).astype(np.float32)
        np.testing.assert_allclose(_hop_energy(x, 16), slow_energy(x, 16), rtol=1e-5)

    def test_values_of_hops_are_interpolated_between_their_middles(self):
        values = np.array([[1.0, 3.0, 2.0]])
        expected = np.interp(np.arange(44), [8, 24, 40], values[0])
        np.testing.assert_allclose(_at_samples(values, 16, 44)[0], expected, atol=1e-6)

    def test_the_gate_opens_where_the_texture_is_much_louder_than_around(self, clicks_over_noise):
        gate, expected = transient_gate(clicks_over_noise, 8_192), slow_gate(clicks_over_noise, 16)
        assert ((expected > 0.1) & (expected < 0.9)).any()
        np.testing.assert_allclose(gate[8::16], expected[: len(gate[8::16])], atol=2e-3)

    def test_noise_just_before_a_transient_is_no_louder_than_twice_its_median(self):
        """In 126 hops of 16 samples before it, where fewer than 3 % of the time before are transients."""
        x = noise(1.0, level=0.01).astype(np.float32)[None]
        x[:, 29_000:30_000] *= 8
        gate = np.zeros(SR, np.float32)
        gate[30_000:30_200] = 1
        share = _share_before_transients(x, gate, 8_192)[0]
        energy = around(slow_energy(x, 16), -8, 7).mean(axis=2)[0]
        groups = np.pad(slow_energy(x, 16), ((0, 0), (0, -2_757 % 16)), mode="edge").reshape(1, -1, 16).mean(axis=2)
        quiet = np.sort(around(groups, -64, 0), axis=2)[0, :, 32].repeat(16)[: len(energy)]
        expected = np.sqrt(np.minimum(1, 2 * quiet / energy))
        hops = np.arange(1_750, 1_874)
        assert expected[hops].min() < 0.4
        np.testing.assert_allclose(share[16 * hops + 8], expected[hops], rtol=0.02)
        assert np.all(share[: 16 * 1_748] == 1)
        assert np.all(share[30_016:] == 1)
        gate[8::320] = 1  # hits that follow each other closely
        assert np.all(_share_before_transients(x, gate, 8_192) == 1)

    def test_the_texture_is_no_louder_than_the_sound_before_and_after_each_moment(self):
        """In 24 hops of 8 samples to either side its power is at most twice that of the sound."""
        y, texture = (
            noise(0.2, level=0.01)[None].astype(np.float32),
            noise(0.2, seed=1, level=0.01)[None].astype(np.float32),
        )
        y[:, 4_000:] *= 10
        texture[:, 3_000:3_800] *= 20
        share = _possible_share(y, texture, 8_192)[0]
        of_y, of_texture = (slow_energy(x, 8)[0] for x in (y, texture))
        n_hops, shares = len(of_y), []
        for hop in range(n_hops):
            before, after = slice(max(0, hop - 23), hop + 1), slice(hop, hop + 24)
            ratios = [of_y[part].sum() / of_texture[part].sum() for part in (before, after)]
            shares.append(min(1.0, np.sqrt(2 * min(ratios))))
        assert min(shares) < 0.2
        at_edges = [max(shares[max(0, i - 1)], shares[min(i, n_hops - 1)]) for i in range(n_hops + 1)]
        expected = np.interp(np.arange(y.shape[1]), 8 * np.arange(n_hops + 1), at_edges)
        np.testing.assert_allclose(share, expected, atol=1e-3)
