"""The gain field: two patterns, and parts that equal the whole, in gains and in audio."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone
from rendering import SETTINGS, expander_of, field_of

from neural_grain.audio.limiter import limit_peaks
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import resynthesis
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts, lerp_weights
from neural_grain.dsp.settings import STEP_FRAMES

TEXTURE = Amounts(-0.5, -0.1)


@pytest.fixture(scope="module")
def field() -> GainField:
    return field_of(drone(-40, 6.0))


def test_the_first_of_two_patterns_is_for_smoothing_and_the_second_for_texture():
    analysis = analyse(sound_from_array(drone(-40, 2.0), SR), SETTINGS)
    smooth = expander_of(analysis)
    texture = smooth * np.linspace(0.2, 1, 128, dtype=np.float32)[:, None]
    both = GainField(analysis, np.stack((smooth, texture)))
    for amounts, pattern in ((Amounts(0.4, 0.0), smooth), (Amounts(-0.4, 0.0), texture)):
        alone = GainField(analysis, pattern)
        np.testing.assert_array_equal(both.gain_db(amounts), alone.gain_db(amounts))
        np.testing.assert_array_equal(both.probe_log_power(amounts), alone.probe_log_power(amounts))


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (7, 8), (50, 200), (100, 10_000)])
def test_the_gains_of_a_part_equal_those_of_the_whole(field, start, stop):
    whole = field.gain_db(TEXTURE)
    np.testing.assert_allclose(field.gain_db(TEXTURE, start, stop), whole[:, start:stop], atol=1e-4)


def test_the_gains_of_frames_are_interpolated_between_the_steps(field):
    frames = np.arange(40, 300)
    whole = field.gain_db(TEXTURE)
    expected = lerp_weights((frames + 0.5) / STEP_FRAMES, whole.shape[1]).interpolate(whole)
    np.testing.assert_allclose(field.gain_db_of_frames(TEXTURE, frames), expected, atol=1e-3)


def test_the_gains_of_a_few_frames_are_near_those_of_their_steps(field):
    frames = np.linspace(0, field.analysis.x.shape[1] - 1, 20).astype(int)
    expected = field.gain_db(TEXTURE)[:, frames // STEP_FRAMES]
    np.testing.assert_allclose(field.gain_db_of_frames(TEXTURE, frames), expected, atol=0.5)


@pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
def test_the_samples_of_a_part_equal_those_of_the_whole(sr):
    y = np.stack([drone(-40, 2.0, sr), drone(-30, 2.0, sr, seed=1)], axis=1).astype(np.float32)
    y[sr : sr + 20] += 0.5
    field, amounts = field_of(y, sr), Amounts(0.7, 0.0)
    whole = np.concatenate(list(field.render(amounts)))
    for start, stop in ((0, 100), (1, 4000), (sr - 700, sr + 5000), (len(y) - 50, len(y))):
        np.testing.assert_allclose(field.render_part(y, amounts, start, stop), whole[start:stop], atol=2e-6)


@pytest.mark.parametrize("starts_abruptly", [True, False])
@pytest.mark.parametrize("burst", [0, 300, 1_500, 3_000])
def test_the_samples_near_the_start_equal_those_of_the_whole_where_something_begins_there(starts_abruptly, burst):
    y = drone(-40, 2.0)[:, None].astype(np.float32)
    y = y[20:] if starts_abruptly else y
    y[burst : burst + 20] += 0.5
    field, amounts = field_of(y), Amounts(-0.7, 0.0)
    whole = np.concatenate(list(field.render(amounts)))
    for start in (*range(0, 6_000, 400), len(y) - 3_000):
        part = field.render_part(y, amounts, start, start + 400)
        np.testing.assert_allclose(part, whole[start : start + 400], atol=2e-6)


def test_a_part_has_the_level_and_the_limiter_of_the_whole():
    y = (drone(-40, 2.0) + np.where(np.arange(2 * SR) % 5_000 < 30, 0.9, 0))[:, None].astype(np.float32)
    field, amounts, ceiling = field_of(y), Amounts(-0.7, 0.0, level=1.5), 0.9
    whole = np.concatenate(list(limit_peaks(field.render(amounts), ceiling, field.analysis.sound)))
    unlimited = np.concatenate(list(field.render(amounts)))
    assert np.abs(unlimited).max() > 1.5 * ceiling
    for start in (0, 1, 4_960, 5_010, 9_000, len(y) - 3_000):
        part = field.render_part(y, amounts, start, start + 3_000, ceiling)
        np.testing.assert_allclose(part, whole[start : start + 3_000], atol=3e-6)
        assert np.abs(part).max() <= ceiling


def test_a_long_sound_is_rendered_the_same_in_pieces(field, monkeypatch):
    amounts = Amounts(-0.5, 0.0)
    whole = np.concatenate(list(field.render(amounts)))
    monkeypatch.setattr(resynthesis, "PIECE_STEPS", 40)
    assert np.abs(np.concatenate(list(field.render(amounts))) - whole).max() < 1e-5
