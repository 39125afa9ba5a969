"""The gain field: two patterns, parts that equal the whole in gains and in audio, and the powers it predicts."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS, analysis_of, field_of, rendered, varied_texture

from neural_grain.audio.limiter import limit_peaks
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import AmountCurve, Amounts, db_of, lerp_weights, powers_before_expander
from neural_grain.dsp.predictor import PowerPredictor
from neural_grain.dsp.settings import STEP_FRAMES

MORE = Amounts(24.0, -0.1)
AMOUNTS = {"smooth": Amounts(-12.0, 0.0), "texture": Amounts(12.0, 0.0), "generated": Amounts(26.0, 0.0), "all": MORE}


@pytest.fixture(scope="module")
def field() -> GainField:
    analysis = analysis_of(drone(-40, 6.0))
    return GainField(analysis, varied_texture(analysis))


def change_db(field: GainField, amounts: Amounts) -> np.ndarray:
    """Change of the level of each band and step, from the gains of the whole sound."""
    parts, gains = field.components(np.arange(field.n_steps)), field.gains(amounts)
    moved_db = db_of(sum(powers_before_expander(parts, gains.bands))) - parts.level_db
    return moved_db + (0.0 if gains.bands.expander_db is None else gains.bands.expander_db + gains.level_db)


def tone_beside_noise() -> np.ndarray:
    """Two channels of the same energy: a tone with a little noise, and noise."""
    return np.stack([sine(400, 3.0, level=0.1) + noise(3.0, level=0.002), noise(3.0, level=0.1)], axis=1)


def test_the_texture_of_a_model_decides_only_what_is_generated():
    analysis = analysis_of(drone(-80, 2.0))
    white, other = GainField(analysis), GainField(analysis, varied_texture(analysis))
    for amounts in (AMOUNTS["smooth"], AMOUNTS["generated"]):
        before, after = (field.gains(amounts).bands for field in (white, other))
        np.testing.assert_array_equal(before.noise_db, after.noise_db)
    assert np.abs(before.generated_db - after.generated_db).max() > 1


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (7, 8), (50, 200), (100, 10_000)])
def test_the_gains_of_a_part_equal_those_of_the_whole(field, start, stop):
    whole, part = field.gains(MORE), field.gains(MORE, start, stop)
    for of_part, of_whole in zip(part.bands, whole.bands, strict=True):
        np.testing.assert_allclose(of_part, of_whole[:, start:stop], atol=1e-4)
    np.testing.assert_allclose(part.transients_db, whole.transients_db[start:stop], atol=1e-4)
    np.testing.assert_allclose(part.level_db, whole.level_db[start:stop], atol=1e-4)


def test_the_level_of_a_curve_of_amounts_is_added_to_that_of_its_steps(field):
    steps = np.zeros(field.n_steps)
    curve = AmountCurve(steps - 12, steps - 1, steps, np.linspace(0, 6, field.n_steps)[None])
    without = field.gains(replace(curve, level_db=steps[None]), 50, 200)
    np.testing.assert_allclose(
        field.gains(curve, 50, 200).level_db, without.level_db + curve.level_db[:, 50:200], atol=1e-4
    )


def test_the_change_at_frames_is_interpolated_between_the_steps(field):
    frames, whole = np.arange(40, 300), change_db(field, MORE)
    expected = lerp_weights((frames + 0.5) / STEP_FRAMES, whole.shape[1]).interpolate(whole)
    inside = slice(60, -60)  # the level of a step depends on those half a second around it
    found = field.gain_db_of_frames(MORE, frames)
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=0.05)


def test_the_change_at_the_first_of_some_frames_is_interpolated_with_the_step_before(field):
    frames, whole = np.arange(43, 61), change_db(field, AMOUNTS["texture"])
    expected = lerp_weights((frames + 0.5) / STEP_FRAMES, whole.shape[1]).interpolate(whole)
    np.testing.assert_allclose(field.gain_db_of_frames(AMOUNTS["texture"], frames), expected, atol=1e-3)


def test_the_change_at_a_few_frames_is_near_that_of_their_steps(field):
    frames = np.linspace(0, field.analysis.x.shape[1] - 1, 20).astype(int)
    expected = change_db(field, AMOUNTS["texture"])[:, frames // STEP_FRAMES]
    np.testing.assert_allclose(field.gain_db_of_frames(AMOUNTS["texture"], frames), expected, atol=0.5)


def test_the_levels_of_the_layers_are_those_of_the_sound_and_follow_the_amounts(field):
    frames = np.array([40, 41, 120, 10_000])  # the last one lies beyond the end and takes the last step
    steps = [10, 10, 30, field.n_steps - 1]
    before = field.layer_levels(None, frames)
    np.testing.assert_array_equal(before.tones_db, field.analysis.tones_db[:, steps])
    np.testing.assert_array_equal(before.texture_db, field.analysis.texture_db[:, steps])
    after = field.layer_levels(Amounts(-12.0, 0.0, level=0.5), frames)
    heard = before.texture_db > -80
    np.testing.assert_allclose((after.texture_db - before.texture_db)[heard], -12 - 6.02, atol=0.01)
    tones = before.tones_db > -60
    np.testing.assert_allclose((after.tones_db - before.tones_db)[tones], -6.02, atol=0.01)


@pytest.mark.parametrize("name", AMOUNTS)
def test_the_predicted_powers_are_those_of_the_rendered_frames(field, name):
    """Overlapping frames average each other's gains, so bins differ, but bands hardly do."""
    amounts, analysis = AMOUNTS[name], field.analysis
    z = rendered(field, amounts)
    P = np.square(np.abs(librosa.stft(np.ascontiguousarray(z[:, 0]), n_fft=2048, hop_length=512, center=False)))
    frames = analysis.probe.index - 3
    power = P[SETTINGS.grain.band_for(SR)].T[frames]
    predicted = np.exp(PowerPredictor(field, field.analysis.probe).log_power(amounts))
    inside = slice(20, -20)
    found = np.log10(power[inside, :640].reshape(len(power[inside]), -1, 32).mean(axis=(0, 2)))
    expected = np.log10(predicted[inside, :640].reshape(len(power[inside]), -1, 32).mean(axis=(0, 2)))
    np.testing.assert_allclose(10 * found, 10 * expected, atol=0.5)


def test_the_predicted_powers_are_those_of_two_channels_whose_balance_is_kept():
    field = field_of(tone_beside_noise())
    for amounts in (Amounts(-12.0, 0.0), Amounts(30.0, 0.0), Amounts(30.0, 0.0, fill=1.0)):
        S = librosa.stft(np.ascontiguousarray(rendered(field, amounts).T), n_fft=2048, hop_length=512, center=False)
        power = np.square(np.abs(S[:, SETTINGS.grain.band_for(SR)])).mean(axis=(0, 2))
        predicted = np.exp(PowerPredictor(field, field.analysis.probe).log_power(amounts)).mean(axis=0)
        by_bands = [10 * np.log10(each[:640].reshape(-1, 32).mean(axis=1)) for each in (power, predicted)]
        np.testing.assert_allclose(*by_bands, atol=1)


@pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
@pytest.mark.parametrize("name", AMOUNTS)
def test_the_samples_of_a_part_equal_those_of_the_whole(sr, name):
    y = np.stack([drone(-40, 2.0, sr), drone(-30, 2.0, sr, seed=1)], axis=1)
    y[sr : sr + 20] += 0.5
    analysis = analysis_of(y, sr)
    field, amounts = GainField(analysis, varied_texture(analysis)), AMOUNTS[name]
    whole = rendered(field, amounts)
    for start, stop in ((0, 100), (1, 4_000), (sr - 700, sr + 5_000), (len(y) - 50, len(y))):
        np.testing.assert_allclose(field.render_part(amounts, start, stop), whole[start:stop], atol=3e-6)


def test_a_pad_beside_drums_keeps_its_level_and_the_balance():
    rng, beats = np.random.default_rng(0), np.zeros(4 * SR)
    for start in range(0, 4 * SR, SR // 2):
        beats[start : start + 6_000] += 0.3 * rng.standard_normal(6_000) * np.exp(-np.arange(6_000) / 1_500)
    y = np.stack([drone(-50, 4.0), beats], axis=1)
    field = field_of(y)
    for amounts in (Amounts(-20.0, 0.0), Amounts(12.0, 0.0), Amounts(30.0, 0.0), Amounts(12.0, 0.0, fill=0.4)):
        z = rendered(field, amounts)
        change_db = 20 * np.log10(z.std(axis=0) / y.std(axis=0))
        assert abs(change_db[0] - change_db[1]) < 1
        assert abs(20 * np.log10(z[:SR, 0].std() / z[-SR:, 0].std() * y[-SR:, 0].std() / y[:SR, 0].std())) < 0.5


@pytest.mark.parametrize(
    "amounts", [Amounts(12.0, 0.0), Amounts(30.0, 0.0), Amounts(12.0, 0.0, fill=0.4), Amounts(30.0, 0.0, fill=1.0)]
)
def test_what_is_generated_keeps_the_balance_of_a_tone_beside_noise_of_the_same_energy(amounts):
    y = tone_beside_noise()
    change_db = 20 * np.log10(rendered(field_of(y), amounts).std(axis=0) / y.std(axis=0))
    assert abs(change_db[0] - change_db[1]) < 1


@pytest.mark.parametrize("starts_abruptly", [True, False])
@pytest.mark.parametrize("burst", [0, 300, 3_000])
def test_the_samples_near_the_start_equal_those_of_the_whole_where_something_begins_there(starts_abruptly, burst):
    y = drone(-40, 2.0)
    y = y[20:] if starts_abruptly else y
    y[burst : burst + 20] += 0.5
    field = field_of(y)
    whole = rendered(field, MORE)
    for start in (*range(0, 6_000, 400), len(y) - 3_000):
        part = field.render_part(MORE, start, start + 400)
        np.testing.assert_allclose(part, whole[start : start + 400], atol=3e-6)


def test_a_part_has_the_level_and_the_limiter_of_the_whole():
    y = drone(-40, 2.0) + np.where(np.arange(2 * SR) % 5_000 < 30, 0.9, 0)
    field, amounts, ceiling = field_of(y), Amounts(15.0, 0.0, level=1.5), 0.9
    whole = np.concatenate(list(limit_peaks(field.render(amounts), ceiling, field.analysis.sound)))
    assert np.abs(rendered(field, amounts)).max() > 1.5 * ceiling
    for start in (0, 1, 4_960, 5_010, 9_000, len(y) - 3_000):
        part = field.render_part(amounts, start, start + 3_000, ceiling)
        np.testing.assert_allclose(part, whole[start : start + 3_000], atol=3e-6)
        assert np.abs(part).max() <= ceiling
