"""The grain contour: its seconds against stage 1's measure of what was cut out, and what a curve asks of them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS

from neural_grain.audio import sound as audio_sound
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.contour import FramePlaces, ReferenceContour, Seconds, measure_local_grain
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.flatness import grain_per_frame, measure_grain

GRAIN = SETTINGS.grain


def seconds_of(y: np.ndarray, sr: int = SR) -> Seconds:
    sound = sound_from_array(y.astype(np.float32), sr)
    return Seconds.of(sound, grain_per_frame(sound, GRAIN).active, GRAIN)


def changing() -> np.ndarray:
    """Three seconds of drone, each with other noise and another level, and 0.3 s more."""
    parts = [
        drone(texture_db, 1.0, seed=i) * level for i, (texture_db, level) in enumerate(((-60, 1), (-30, 0.1), (-45, 1)))
    ]
    return np.concatenate([*parts, drone(-45, 0.3, seed=3)])


@pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
def test_the_grain_of_a_second_is_that_of_a_sound_that_holds_nothing_else(sr):
    parts = [drone(texture_db, 1.0, sr, seed=i) * level for i, (texture_db, level) in enumerate(((-60, 1), (-30, 0.1)))]
    grain = seconds_of(np.concatenate(parts), sr).grain
    for second, part in zip(grain, parts, strict=True):
        assert second == pytest.approx(measure_grain(sound_from_array(part, sr), GRAIN), rel=0.03)


@pytest.mark.parametrize("n_samples", [3_000, 44_100, 66_149, 66_150, 66_151, 100_000])
def test_frames_lie_in_the_second_of_their_middle_and_within_it_if_they_do_not_reach_beyond(n_samples):
    places = FramePlaces.of(sound_from_array(noise(3.0)[:n_samples], SR), GRAIN)
    n_seconds = max(1, n_samples // SR + (n_samples % SR >= SR / 2))
    starts = range(0, n_samples - 2_048 + 1, 512)
    second = [min((start + 1_024) // SR, n_seconds - 1) for start in starts]
    assert places.of_second.tolist() == second
    ends = [n_samples if i == n_seconds - 1 else (i + 1) * SR for i in second]
    within = [i * SR <= start and start + 2_048 <= end for start, i, end in zip(starts, second, ends, strict=True)]
    assert places.is_within.tolist() == within
    np.testing.assert_allclose(places.times_s, [(start + 1_024) / SR for start in starts])


@pytest.mark.parametrize("block_frames", [1, 7, 128])
def test_the_flatness_of_a_frame_is_relative_to_the_loudest_bin_of_its_second(monkeypatch, block_frames):
    monkeypatch.setattr(audio_sound, "BLOCK_FRAMES", block_frames)
    y = np.concatenate([drone(-60, 1.0), 0.01 * sine(2_000, 1.0), drone(-30, 0.7, seed=1)]).astype(np.float32)
    seconds, frames = seconds_of(y), np.lib.stride_tricks.sliding_window_view(y, 2_048)[::512]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2_048) / 2_048)
    hz = np.fft.rfftfreq(2_048, 1 / SR)
    P = np.square(np.abs(np.fft.rfft(frames * window)))[:, (hz >= 50) & (hz <= 15_000)]
    for second in range(3):
        members = seconds.places.of_second == second
        floor = P[members & seconds.places.is_within].max() * 1e-10
        bins = np.maximum(P[members], floor)
        expected = np.exp(np.log(bins).mean(axis=1)) / bins.mean(axis=1)
        np.testing.assert_allclose(seconds.flatness[members], expected, rtol=2e-3)


def test_a_short_rest_belongs_to_the_last_second_and_a_longer_one_is_a_second():
    assert seconds_of(changing()).n == 3
    assert seconds_of(np.concatenate((changing(), drone(-45, 0.3)))).n == 4
    assert seconds_of(drone(-45, 0.2)).n == 1


def test_the_flatness_does_not_depend_on_the_other_seconds_or_on_the_level():
    y = changing()
    sound = [sound_from_array(x.astype(np.float32), SR) for x in (y, np.concatenate((y[:SR], 0.01 * y[SR:])))]
    of_both = [measure_local_grain(each, GRAIN) for each in sound]
    inside = seconds_of(y).places.is_within
    np.testing.assert_allclose(of_both[0].flatness[inside], of_both[1].flatness[inside], rtol=1e-3)
    assert of_both[0].grain == pytest.approx(measure_grain(sound[0], GRAIN), rel=1e-6)


def test_a_silent_second_has_no_grain():
    y = np.concatenate((drone(-40, 1.0), np.zeros(SR), drone(-40, 1.0)))
    y[SR + 100 : 2 * SR] += 1e-3 * noise(1.0)[: SR - 100]  # more than 40 dB quieter
    np.testing.assert_array_equal(np.isnan(seconds_of(y).grain), [False, True, False])


class TestRequest:
    def test_a_constant_position_asks_the_same_of_every_second(self):
        requested = seconds_of(changing()).requested_octaves(GrainCurve(((0.0, -1.25),)))
        np.testing.assert_allclose(requested, -1.25, atol=1e-6)

    def test_where_the_slider_moves_it_is_the_mean_over_the_frames(self):
        seconds, curve = seconds_of(changing()), GrainCurve.of([(0, -1), (2, 3)])
        frames = seconds.counts & (seconds.places.of_second == 1)
        factor = 2.0 ** -curve.octaves_at(seconds.places.times_s[frames])
        expected = -np.log2(np.average(factor, weights=seconds.flatness[frames]))
        assert seconds.requested_octaves(curve)[1] == pytest.approx(expected, abs=1e-6)

    def test_the_curve_to_a_reference_asks_for_its_grain_stretched_to_the_sound(self):
        seconds = seconds_of(np.concatenate([drone(-45, 1.0, seed=i) for i in range(4)]))
        reference = ReferenceContour((0.00004, 0.00002))
        curve = seconds.curve_to(reference)
        expected = np.log2(seconds.grain[[0, 3]] / [0.00004, 0.00002])
        np.testing.assert_allclose(curve.octaves_at(np.array([0.5, 3.5])), expected, atol=1e-6)
        np.testing.assert_allclose(curve.octaves_at(np.array([0.1, 3.9])), expected, atol=1e-6)
        times_s = [second + at for second in range(4) for at in (0.02, 0.98)]
        np.testing.assert_allclose([seconds for seconds, _ in curve.points], times_s)
        steep = seconds.curve_to(ReferenceContour((1e-9, 1.0)))
        assert [octaves for _, octaves in steep.points[:2] + steep.points[-2:]] == [3, 3, -3, -3]

    def test_seconds_without_grain_are_left_out_of_the_curve_to_a_reference(self):
        seconds = seconds_of(np.concatenate((drone(-40, 1.0), np.zeros(SR), drone(-40, 1.0))))
        times_s = [seconds for seconds, _ in seconds.curve_to(ReferenceContour((3e-5,))).points]
        np.testing.assert_allclose(times_s, [0.02, 0.98, 2.02, 2.98])

    def test_silent_seconds_of_a_reference_are_bridged(self):
        seconds = seconds_of(np.concatenate([drone(-45, 1.0, seed=i) for i in range(3)]))
        with_gap, without = (
            seconds.curve_to(ReferenceContour(grain)) for grain in ((3e-5, 0.0, 3e-5), (3e-5, 3e-5, 3e-5))
        )
        np.testing.assert_allclose(np.array(with_gap.points), np.array(without.points), atol=1e-6)
