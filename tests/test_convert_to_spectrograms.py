"""Stage 2: tiles cover the file, the way back is exact, and the amount solved gives the grain asked for."""

from __future__ import annotations

import json
import math

import librosa
import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone, noise, run, sine, write_library
from PIL import Image
from scipy.signal import lfilter

import convert_to_spectrograms as stage2
import measure_audio_grain as stage1
from convert_to_spectrograms import (
    Amounts,
    AmountSolver,
    FrameChanger,
    Reach,
    analyse,
    band_weights,
    between_centres,
    beyond_the_edge,
    bin_weights,
    bins_per_band,
    calm,
    default_settings,
    fill_tile,
    hold_energy,
    limit_gain,
    limit_peaks,
    log_mel,
    log_mel_of,
    minimum_phase,
    move_grain,
    onsets,
    read_pairs,
    render_blocks,
    spectral_expander,
    tile_starts,
)
from measure_audio_grain import GrainSettings, PipelineError, measure_grain, sound_from_array

SETTINGS = default_settings(GrainSettings())


def rendered(y: np.ndarray, sr: int, gain_db: np.ndarray, **options) -> np.ndarray:
    changer = FrameChanger(SETTINGS, sr, options.pop("onset", None))
    blocks = render_blocks(sound_from_array(y, sr), lambda a, b: gain_db[:, a:b], changer, **options)
    return np.concatenate(list(blocks))


def n_steps(y: np.ndarray, sr: int) -> int:
    return analyse(sound_from_array(y, sr), SETTINGS).step_db.shape[1]


def expander_of(analysis) -> np.ndarray:
    """The expander as if it were learned: a value for each cell."""
    n = -(-analysis.x.shape[1] // stage2.CELL_FRAMES)
    cells = [analysis.x[:, stage2.CELL_FRAMES * i :][:, : stage2.CELL_FRAMES].mean(axis=1) for i in range(n)]
    return spectral_expander(SETTINGS.dynamic_range_db * np.stack(cells, axis=1))


def solver_of(y: np.ndarray, sr: int = SR) -> AmountSolver:
    analysis = analyse(sound_from_array(y, sr), SETTINGS)
    return AmountSolver(analysis, expander_of(analysis))


class TestMelBands:
    def test_are_librosas_triangles(self):
        expected = librosa.filters.mel(sr=SR, n_fft=2048, n_mels=128, fmin=50, fmax=15_000, norm=None)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(band_weights(SETTINGS, SR), expected, atol=2e-3)

    @pytest.mark.parametrize("sr", [8_000, 11_025, 32_000, 62_000, 96_000, 192_000])
    def test_each_is_a_mean_of_bins_at_every_rate(self, sr):
        sums = band_weights(SETTINGS, sr).sum(axis=1)
        centres = np.array(SETTINGS.band_edges_hz[1:-1])
        np.testing.assert_allclose(sums[centres <= 0.97 * sr / 2], 1, atol=1e-5)
        assert np.all((sums < 1e-6) | (np.abs(sums - 1) < 1e-5))

    @pytest.mark.parametrize("sr", [8_000, 44_100, 192_000])
    def test_the_way_back_interpolates_between_centres(self, sr):
        weights = bin_weights(SETTINGS, sr)
        np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
        hz = np.arange(weights.shape[1]) * sr / SETTINGS.grain.n_fft_for(sr)
        centres = np.array(SETTINGS.band_edges_hz[1:-1])
        np.testing.assert_allclose(centres @ weights, np.clip(hz, centres[0], centres[-1]), rtol=1e-4)


class TestTiles:
    def test_log_mel_of_a_sine_is_loudest_in_its_band(self):
        x = log_mel_of(sound_from_array(sine(1000), SR), SETTINGS)
        assert x.shape == (128, (2 * SR - 2048) // 512 + 1)
        band = int(x[:, 50].argmax())
        assert SETTINGS.band_edges_hz[band] < 1000 < SETTINGS.band_edges_hz[band + 2]
        assert x.max() == 1.0
        assert x.min() == 0.0

    def test_log_mel_is_linear_in_db(self):
        powers = 10.0 ** (-np.array([[0.0, 2.0, 4.0, 9.0]]))
        np.testing.assert_allclose(log_mel(powers, 80.0)[:, 0], [1, 0.75, 0.5, 0], atol=1e-6)

    @pytest.mark.parametrize("frames", [1, 255, 256, 257, 512, 513, 5000])
    def test_tiles_cover_every_frame_with_as_few_as_can_be(self, frames):
        starts = tile_starts(frames, 256)
        covered = np.zeros(max(frames, 256), bool)
        for start in starts:
            assert start >= 0
            assert start + 256 <= max(frames, 256)
            covered[start : start + 256] = True
        assert covered[:frames].all()
        assert len(starts) == math.ceil(frames / 256)

    @pytest.mark.parametrize("frames", [1, 3, 100, 256])
    def test_a_short_file_fills_its_tile_with_itself(self, frames):
        x = np.random.default_rng(0).random((128, frames)).astype(np.float32)
        tile = fill_tile(x, 256)
        assert tile.shape == (128, 256)
        np.testing.assert_array_equal(tile[:, :frames], x)
        assert set(map(tuple, tile.T)) == set(map(tuple, x.T))


class TestWayBack:
    @pytest.mark.parametrize(
        ("sr", "length", "channels"),
        [(44_100, 44_100, 1), (48_000, 20_001, 2), (8_000, 5_000, 6), (192_000, 100_003, 2)],
    )
    def test_no_gain_gives_the_sound_back(self, sr, length, channels):
        y = np.random.default_rng(1).uniform(-1, 1, (length, channels)).astype(np.float32)
        z = rendered(y, sr, np.zeros((128, n_steps(y, sr)), np.float32))
        assert z.shape == y.shape
        assert np.abs(z - y).max() < 1e-6

    def test_the_same_gain_everywhere_is_no_gain(self):
        power = np.random.default_rng(0).exponential(size=(128, 30)).astype(np.float32)
        held = hold_energy(
            np.full((128, 30), 12.0, np.float32), 10 * np.log10(power), bins_per_band(SETTINGS), np.ones(30)
        )
        np.testing.assert_allclose(held, 0, atol=1e-4)

    def test_the_same_gain_at_all_times_is_that_gain_and_nothing_below_the_band(self):
        y = (sine(1000, level=0.2) + sine(25, level=0.2))[:, None]
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, np.full((128, n_steps(y, SR)), 6.0, np.float32))[:SR, 0]))
        assert 20 * np.log10(spectrum[1000] / spectrum[25]) == pytest.approx(6.0, abs=0.1)

    def test_one_raised_band_raises_its_sine_against_the_other(self):
        y = (sine(500, level=0.2) + sine(5000, level=0.2))[:, None]
        gain_db = np.zeros((128, n_steps(y, SR)), np.float32)
        gain_db[np.array(SETTINGS.band_edges_hz[1:-1]) > 2000] = 12.0
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, gain_db)[SR // 2 : SR // 2 + SR, 0]))
        assert 20 * np.log10(spectrum[5000] / spectrum[500]) == pytest.approx(12.0, abs=0.05)

    def test_energy_is_held_where_the_change_stays_alike(self):
        rng = np.random.default_rng(0)
        power = rng.exponential(size=(128, 1)).repeat(40, axis=1).astype(np.float32)
        gain_db = rng.normal(0, 20, (128, 1)).repeat(40, axis=1).astype(np.float32)
        shares = bins_per_band(SETTINGS)
        gain = 10 ** (hold_energy(gain_db, 10 * np.log10(power), shares, np.ones(40)) / 10)
        np.testing.assert_allclose(shares @ (power * gain), shares @ power, rtol=1e-4)
        np.testing.assert_allclose(10 * np.log10(gain[30] / gain[50]), gain_db[30] - gain_db[50], atol=1e-3)

    def test_a_step_in_which_a_sound_begins_does_not_change_the_level_around_it(self):
        power, gain_db = np.ones((128, 41), np.float32), np.zeros((128, 41), np.float32)
        gain_db[64:] = -20
        power[64:, 20] = 3.0
        weights = np.ones(41)
        weights[20] = 0.01
        held = hold_energy(gain_db, 10 * np.log10(power), bins_per_band(SETTINGS), weights)
        assert np.ptp(held[0]) < 0.05

    def test_stereo_image_is_kept(self):
        y = drone()[:, None] * np.array([[1.0, 0.25]])
        a = analyse(sound_from_array(y, SR), SETTINGS)
        z = rendered(y, SR, -0.5 * spectral_expander(a.step_db), onset=a.onset)
        np.testing.assert_allclose(z[:, 1], 0.25 * z[:, 0], atol=1e-6)

    def test_gains_go_from_step_to_step_in_a_line(self):
        before, after, share = between_centres((np.arange(16) + 0.5) / 4, 4)
        values = np.array([0.0, 4.0, 8.0, 4.0])
        got = values[before] * (1 - share) + values[after] * share
        np.testing.assert_allclose(got, np.interp((np.arange(16) + 0.5) / 4, [0.5, 1.5, 2.5, 3.5], values))

    def test_of_two_patterns_one_smooths_and_the_other_gives_texture(self):
        analysis = analyse(sound_from_array(drone(-40, 2.0), SR), SETTINGS)
        smooth, texture = (
            expander_of(analysis),
            expander_of(analysis) * np.linspace(0.2, 1, 128, dtype=np.float32)[:, None],
        )
        both = AmountSolver(analysis, np.stack((smooth, texture)))
        for octaves, pattern in ((1.0, smooth), (-1.0, texture)):
            alone, amounts = AmountSolver(analysis, pattern), both.about(octaves)
            assert amounts == alone.about(octaves)
            assert np.array_equal(both.gain_db(amounts), alone.gain_db(amounts))

    def test_gains_of_a_part_are_those_of_the_whole(self):
        solver = solver_of(drone(-40, 6.0))
        amounts = Amounts(-0.5, -0.1)
        whole = solver.gain_db(amounts)
        for start, stop in ((0, 10), (7, 8), (50, 200), (100, 10_000)):
            np.testing.assert_allclose(solver.gain_db(amounts, start, stop), whole[:, start:stop], atol=1e-4)

    @pytest.mark.parametrize("sr", [8_000, 44_100, 96_000])
    def test_a_part_is_that_of_the_whole(self, sr):
        y = np.stack([drone(-40, 2.0, sr), drone(-30, 2.0, sr, seed=1)], axis=1).astype(np.float32)
        y[sr : sr + 20] += 0.5
        solver = solver_of(y, sr)
        amounts = Amounts(0.7, 0.0)
        whole = np.concatenate(list(solver.render(amounts)))
        for start, stop in ((0, 100), (1, 4000), (sr - 700, sr + 5000), (len(y) - 50, len(y))):
            np.testing.assert_allclose(solver.render_part(y, amounts, start, stop), whole[start:stop], atol=2e-6)

    def test_a_long_sound_renders_in_blocks_as_in_one_piece(self, monkeypatch):
        solver = solver_of(drone(-40, 6.0))
        whole = np.concatenate(list(solver.render(Amounts(-0.5, 0.0))))
        monkeypatch.setattr(stage2, "PIECE_STEPS", 40)
        pieces = np.concatenate(list(solver.render(Amounts(-0.5, 0.0))))
        assert np.abs(pieces - whole).max() < 1e-5

    def test_a_picture_too_large_for_memory_lies_in_a_file(self, monkeypatch):
        y = drone()
        in_memory = analyse(sound_from_array(y, SR), SETTINGS)
        monkeypatch.setattr(stage2, "MEMORY_BYTES", 1000)
        monkeypatch.setattr(stage2, "PIECE_FRAMES", 50)
        in_file = analyse(sound_from_array(y, SR), SETTINGS)
        assert isinstance(in_file.x, np.memmap)
        np.testing.assert_allclose(in_file.x, in_memory.x, atol=1e-6)

    @pytest.mark.parametrize("size", [50, 64, 128])
    def test_a_long_sound_that_grows_louder_is_measured_as_a_short_one(self, monkeypatch, size):
        y = np.concatenate([drone(-90) * 10 ** (db / 20) for db in (-50, -30, -10, 0)])
        y = np.concatenate([y, 0.9 * sine(1000, 0.5)])  # the floor rises with the last second
        expected = measure_grain(sound_from_array(y, SR))
        monkeypatch.setattr(stage1, "KEEP_FRAMES", 100)
        monkeypatch.setattr(stage1, "BLOCK_FRAMES", size)
        assert measure_grain(sound_from_array(y, SR)) == pytest.approx(expected, rel=1e-6)
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        assert analysis.grain == pytest.approx(expected, rel=1e-6)

    def test_one_thread_and_three_render_the_same(self):
        y = drone()[:, None]
        a = analyse(sound_from_array(y, SR), SETTINGS)
        gain_db = spectral_expander(a.step_db)
        np.testing.assert_array_equal(
            rendered(y, SR, gain_db, onset=a.onset), rendered(y, SR, gain_db, onset=a.onset, threads=3)
        )


class TestOnsets:
    def test_minimum_phase_is_that_of_a_one_pole_filter(self):
        z = np.exp(-2j * np.pi * np.arange(1025) / 2048)
        response = 0.1 / (1 - 0.9 * z)
        np.testing.assert_allclose(minimum_phase(np.log(np.abs(response))[None])[0], np.angle(response), atol=1e-4)

    def test_a_click_is_one_and_steady_noise_is_none(self):
        y = noise(2, level=0.01)
        y[SR] += 1.0
        a = analyse(sound_from_array(y, SR), SETTINGS)
        frames = np.flatnonzero(a.onset > 0)
        frames = frames[(frames > 8) & (frames < len(a.onset) - 8)]
        click = (SR + 1536) // 512
        assert len(frames) >= 2
        assert frames.min() >= click - 3
        assert frames.max() <= click
        assert onsets(np.full((128, 50), 0.5, np.float32), 80.0, 4)[4:].max() == 0

    @pytest.mark.parametrize("octaves", [1.0, 3.0])
    def test_next_to_nothing_comes_before_a_click_in_silence(self, octaves):
        y = np.zeros(2 * SR)
        y[SR] = 0.7
        z = np.concatenate(list(move_grain(solver_of(y), octaves).sound.blocks()))
        before = np.abs(z[SR - 882 : SR - 22]).max()
        assert before < 0.7 * 10 ** (-50 / 20)
        zero_phase = solver_of(y)
        gain_db = zero_phase.gain_db(zero_phase.reach(1.0).at(zero_phase.solve(octaves)))
        assert np.abs(rendered(y[:, None], SR, gain_db)[SR - 882 : SR - 22]).max() > 4 * before  # it was needed


class TestCalm:
    def test_a_steady_noise_has_a_steady_pattern(self):
        rng = np.random.default_rng(0)
        x = np.clip(0.5 + rng.normal(0, 0.07, (128, 32 * 40)), 0, 1).astype(np.float32)
        pattern = rng.normal(0, 5, (128, 40)).astype(np.float32)
        assert calm(pattern, x, SETTINGS).std(axis=1).mean() < 0.15 * pattern.std(axis=1).mean()

    def test_sounds_that_differ_keep_their_own(self):
        x = np.full((128, 32 * 20), 0.5, np.float32)
        x[:64, 32 * 10 :] = 0.1
        pattern = np.zeros((128, 20), np.float32)
        pattern[:, 10:] = 7.0
        np.testing.assert_allclose(calm(pattern, x, SETTINGS), pattern, atol=1e-3)

    def test_what_lasts_one_cell_is_passed_over(self):
        pattern = np.zeros((128, 20), np.float32)
        pattern[:, 10] = 30.0
        assert np.abs(calm(pattern, np.full((128, 640), 0.5, np.float32), SETTINGS)).max() == 0


class TestSolver:
    @pytest.fixture(scope="class")
    @classmethod
    def solver(cls):
        return solver_of(drone(-45))

    def test_octaves_equal_a_slow_calculation_from_the_definition(self, solver):
        analysis = solver.analysis
        band = SETTINGS.grain.band_for(SR)
        weights = bin_weights(SETTINGS, SR)[:, band].astype(float)
        probe = analysis.probe
        centres = (np.arange(analysis.step_db.shape[1]) + 0.5) * stage2.STEP_FRAMES

        def grain(amount):
            steps = np.arange(analysis.step_db.shape[1])
            gain_db = solver._shape_db(Amounts(amount, 0.0), solver._patterns_db(steps, amount < 0))
            spectra = []
            for power, frame in zip(probe.power.astype(float), probe.index, strict=True):
                now = [np.interp(frame + 0.5, centres, row) for row in gain_db]
                moved = power * 10 ** (np.array(now) @ weights / 10)
                spectra.append(moved * power.sum() / moved.sum())
            peak = max(spectrum.max() for spectrum in spectra)
            return np.mean(
                [librosa.feature.spectral_flatness(S=np.sqrt(p / peak)[:, None], amin=1e-10)[0, 0] for p in spectra]
            )

        for amount in (-0.4, 0.3):
            expected = math.log2(grain(0) / grain(amount))
            assert solver.octaves(Amounts(amount, 0.0)) == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("octaves", [-3, -0.01, 0.01, 1, 3])
    def test_the_position_found_gives_the_octaves(self, solver, octaves):
        reach = solver.reach(math.copysign(1.0, octaves))
        found = reach.at(solver.solve(octaves))
        assert solver.octaves(found) == pytest.approx(octaves, abs=1e-3)

    def test_grain_moves_one_way_along_the_reach(self, solver):
        for sign in (-1.0, 1.0):
            reach = solver.reach(sign)
            octaves = [sign * solver.octaves(reach.at(p)) for p in np.linspace(0, reach.end, 40)]
            assert np.all(np.diff(octaves) > 0)
            assert octaves[0] == 0

    def test_log_flatness_of_a_frame_is_concave_in_the_amount(self):
        rng = np.random.default_rng(3)
        power, gain_db = rng.exponential(size=(1, 700)), rng.normal(0, 10, (1, 700))
        amounts = np.linspace(-3, 3, 61)
        flatness = [
            math.log(
                librosa.feature.spectral_flatness(S=np.sqrt(power * 10 ** (u * gain_db / 10)).T, amin=1e-300)[0, 0]
            )
            for u in amounts
        ]
        assert np.all(np.diff(flatness, 2) < 1e-9)

    def test_beyond_the_reach_it_goes_as_far_as_it_can_stays_there_and_says_so(self):
        solver = solver_of(noise(2))
        results = [move_grain(solver, octaves) for octaves in (-2.5, -3.0)]
        assert not any(result.within_reach for result in results)
        assert results[0].got_octaves == results[1].got_octaves

    def test_what_lies_farther_than_the_slider_is_reached_too(self):
        solver = solver_of(drone(-30).astype(np.float32))
        for octaves in (5.0, -4.5):
            result = move_grain(solver, octaves)
            assert result.within_reach
            assert result.got_octaves == pytest.approx(octaves, abs=0.02)

    def test_an_end_that_turns_back_is_left_for_what_was_measured_to_go_farther(self):
        y = lfilter([1], [1, -0.9], noise(2)).astype(np.float32)
        solver = solver_of(y)
        reach = solver.reach(-1.0)
        lie = Reach(  # as if it went on, by octaves that aren't there
            np.append(reach.pattern, 3 * reach.pattern[-1]),
            np.append(reach.expander, 3 * reach.expander[-1]),
            np.append(reach.octaves, reach.octaves[-1] + 0.4),
        )
        solver._reaches[-1.0, stage2.FAR_OCTAVES[0]] = lie
        at_the_end = np.concatenate(list(solver.render(lie.at(lie.end))))
        at_the_end = math.log2(measure_grain(sound_from_array(at_the_end, SR)) / solver.analysis.grain)
        raised = [-move_grain(solver, -octaves).got_octaves for octaves in np.arange(0.25, 3.1, 0.25)]
        assert raised[-1] > at_the_end + 0.05
        assert np.all(np.diff(raised) >= 0)
        beyond = [octaves for octaves in raised if octaves > raised[-1] - 0.02]
        assert len(set(beyond)) == 1

    @pytest.mark.parametrize("top", [1.5, 1.8, 1.95, 2.05, 2.2])
    def test_the_top_of_a_way_that_turns_back_is_found_wherever_it_lies(self, top):
        """Grain that rises with the way up to the top, and falls slowly after it."""
        octaves = np.linspace(0, 2.5, 51)
        reach = Reach(octaves, 0 * octaves, octaves)

        def attempt(position: float, level: float) -> stage2._Try:
            along = reach.at(position).pattern
            return stage2._Try(position, min(along, top - 0.3 * (along - top)), None, 1.0, level)

        assert stage2._farthest(reach, attempt).got == pytest.approx(top, abs=0.02)

    def test_where_the_pattern_ends_the_expander_carries_on(self):
        analysis = analyse(sound_from_array(drone(-45), SR), SETTINGS)
        result = move_grain(AmountSolver(analysis, np.zeros_like(expander_of(analysis))), -1.0)
        assert result.amounts.expander < 0
        assert result.got_octaves == pytest.approx(-1.0, abs=0.02)

    def test_a_sound_that_is_almost_all_silence_is_probed_where_it_sounds(self):
        y = np.zeros(120 * SR, np.float32)
        y[80 * SR : 81 * SR] = drone(-40, 1.0)
        analysis = analyse(sound_from_array(y, SR), SETTINGS)
        at = 80 * SR // 512
        assert len(analysis.probe.index) > 70
        assert at <= analysis.probe.index.min() < analysis.probe.index.max() < at + 100


class TestLimits:
    def test_no_band_rises_above_the_loudest(self):
        rng = np.random.default_rng(0)
        level_db, gain_db = rng.uniform(-80, 0, (128, 50)), rng.normal(0, 40, (128, 50))
        shares = bins_per_band(SETTINGS)
        gain = limit_gain(gain_db, level_db, shares)
        weights = 10 ** (level_db / 10) * shares[:, None]
        mean_gain = (weights * gain_db).sum(axis=0) / weights.sum(axis=0)
        assert np.all(level_db + gain <= level_db.max(axis=0) + mean_gain + 1e-4)
        untouched = level_db + gain_db <= level_db.max(axis=0) + mean_gain - 1e-4
        np.testing.assert_array_equal(gain[untouched], gain_db[untouched])

    def test_no_gain_is_not_limited(self):
        level_db = np.random.default_rng(0).uniform(-80, 0, (128, 50)).astype(np.float32)
        np.testing.assert_array_equal(limit_gain(np.zeros_like(level_db), level_db, bins_per_band(SETTINGS)), 0)

    @pytest.mark.parametrize("size", [50, 700, 100_000])
    def test_the_limiter_holds_the_ceiling_and_does_not_depend_on_blocks(self, size):
        y = noise(0.5, level=0.4)[:, None].astype(np.float32) * np.array([[1.0, 0.5]], np.float32)
        sound = sound_from_array(y, SR)
        whole = np.concatenate(list(limit_peaks([y], 0.9, sound)))
        assert whole.shape == y.shape
        assert np.abs(whole).max() <= 0.9
        pieces = np.concatenate(list(limit_peaks([y[i : i + size] for i in range(0, len(y), size)], 0.9, sound)))
        np.testing.assert_allclose(pieces, whole, atol=1e-6)

    def test_the_limiter_leaves_alone_what_is_far_from_a_peak(self):
        y = np.full((SR, 1), 0.1, np.float32)
        y[SR // 2] = 5.0
        z = np.concatenate(list(limit_peaks([y], 1.0, sound_from_array(y, SR))))
        far = np.abs(np.arange(SR) - SR // 2) > 2 * round(stage2.LIMITER_S * SR)
        np.testing.assert_array_equal(z[far], y[far])
        assert z[SR // 2] == pytest.approx(1.0, abs=1e-5)
        assert np.abs(np.diff(z[:, 0] / y[:, 0])).max() < 0.05  # no step in the gain


LAW_SOUNDS = {
    "mono": (drone(-40), SR),
    "stereo": (np.stack([drone(-40), drone(-30, seed=2)], axis=1), SR),
    "opposite phase": (drone(-40)[:, None] * np.array([[1.0, -1.0]]), SR),
    "48 kHz": (drone(-40, sr=48_000), 48_000),
    "odd rate": (drone(-40, sr=37_800), 37_800),
    "8 kHz": (drone(-40, sr=8_000), 8_000),
    "one second": (drone(-40, 1.0), SR),
    "odd length": (drone(-40)[:-12_345], SR),
    "very quiet": (drone(-40) * 1e-3, SR),
    "mostly silence": (np.concatenate([np.zeros(2 * SR), drone(-40, 1.0), np.zeros(2 * SR)]), SR),
}


@pytest.mark.parametrize("name", LAW_SOUNDS)
def test_the_law_holds_on(name):
    y, sr = LAW_SOUNDS[name]
    y = y.astype(np.float32)
    solver = solver_of(y, sr)
    for octaves in (-2, -1, 0.5, 1):
        result = move_grain(solver, octaves)
        z = np.concatenate(list(result.sound.blocks()))
        assert z.shape == (len(y), 1 if y.ndim == 1 else y.shape[1])
        got = math.log2(measure_grain(sound_from_array(y, sr)) / measure_grain(sound_from_array(z, sr)))
        assert result.within_reach
        assert got == pytest.approx(octaves, abs=0.02)
        assert got == pytest.approx(result.got_octaves, abs=1e-6)
        loudness_db = 10 * np.log10(np.mean(np.square(z)) / np.mean(np.square(y)))
        assert loudness_db == pytest.approx(result.level_db, abs=0.01)
        assert abs(loudness_db) < 0.5
        assert np.abs(z).max() <= 1.0


def test_loudness_stays_where_level_alone_would_not_keep_it():
    """Against the filters of BS.1770 run over the samples; ungated, for the sound stands still."""

    def loudness_db(z):
        weighted = lfilter(*stage2.K_HIGH_PASS, lfilter(*stage2.K_SHELF, z[:, 0]))
        return 10 * np.log10(np.mean(np.square(weighted[4_800:])))

    y = lfilter([1], [1, -0.95], noise(3, 48_000, level=0.02))[:, None].astype(np.float32)
    result = move_grain(solver_of(y, 48_000), -1.5)
    louder_db = loudness_db(np.concatenate(list(result.sound.blocks()))) - loudness_db(y)
    assert abs(result.level_db) <= 0.5
    assert abs(louder_db) <= 1.0
    assert louder_db - result.level_db > 1.0  # what it would be at the input's level


def test_a_loop_cut_in_mid_wave_gets_no_click_at_its_ends():
    t = np.arange(2 * SR) / SR
    y = (0.3 * np.cos(2 * np.pi * 110 * t) + noise(2, level=3e-4)).astype(np.float32)[:, None]
    result = move_grain(solver_of(y), -2.0)
    z = np.concatenate(list(result.sound.blocks()))
    added = np.abs(z - y)
    inner = added[4_096:-4_096].max()
    assert added[:256].max() < 2 * inner
    assert added[-256:].max() < 2 * inner


def test_what_is_put_around_a_sound_is_its_image_where_it_is_cut_and_silence_where_it_is_not():
    cut, whole = np.array([[3.0], [2.0], [1.0], [-4.0]]), np.array([[0.0], [2.0], [1.0], [-4.0]])
    np.testing.assert_array_equal(beyond_the_edge(cut, 2)[:, 0], [2, 1])
    np.testing.assert_array_equal(beyond_the_edge(cut, 5)[:, 0], [2, 1, -4, 0, 0])
    np.testing.assert_array_equal(beyond_the_edge(whole, 3)[:, 0], [0, 0, 0])


def test_a_sound_that_cannot_be_moved_is_left_as_it_is():
    solver = solver_of(sine(1_000).astype(np.float32))  # at the floor already: there is nothing to take away
    result = move_grain(solver, 2.0)
    assert not result.within_reach
    assert result.sound is solver.analysis.sound


def test_at_zero_the_sound_itself_comes_back():
    solver = solver_of(drone())
    result = move_grain(solver, 0.0)
    assert result.sound is solver.analysis.sound
    assert result.got_octaves == 0.0


def test_near_zero_the_output_converges_to_the_input():
    y = drone()[:, None].astype(np.float32)
    solver = solver_of(y)

    def difference_db(octaves):
        z = np.concatenate(list(move_grain(solver, octaves).sound.blocks()))
        return 20 * np.log10(np.sqrt(np.mean((z - y) ** 2)) / np.sqrt(np.mean(y**2)))

    assert difference_db(0.01) < -60
    assert difference_db(-0.01) < -60
    assert difference_db(0.001) < difference_db(0.01) - 15


def test_a_quieter_sound_gives_the_same_quieter():
    y = (drone(-40) + np.where(np.arange(3 * SR) % SR < 200, noise(3, level=0.3), 0)).astype(np.float32)
    for octaves in (-1.5, 1.5):
        loud, quiet = (
            np.concatenate(list(move_grain(solver_of(y * gain), octaves, ceiling=10.0).sound.blocks()))
            for gain in (1.0, 10 ** (-30 / 20))
        )
        error = np.sqrt(np.mean((quiet * 10 ** (30 / 20) - loud) ** 2) / np.mean(loud**2))
        assert 20 * np.log10(error) < -90


class TestCommand:
    def test_tiles_pictures_and_contract(self, project):
        ran = project.ran[1]
        assert ran.status == 0
        assert "12 converted, 0 unchanged, 0 gone" in ran.out
        assert "next: python cak_grain_processor.py" in ran.out
        content = json.loads((project.folder / "training_pairs.json").read_text())
        assert content["version"] == 1
        assert len(content["settings"]["band_edges_hz"]) == 130
        grains = {
            item["path"]: item["grain"] for item in json.loads((project.folder / "metadata.json").read_text())["files"]
        }
        for tile in content["tiles"]:
            x = np.load(project.folder / tile["array"], allow_pickle=False)
            assert (x.shape, x.dtype) == ((128, 256), np.float32)
            assert 0 <= x.min() <= x.max() <= 1
            assert tile["grain"] == pytest.approx(grains[tile["source"]], rel=0.2)  # drones that stand still
            assert tile["array"].startswith("spectrograms/arrays/")
            assert tile["image"].startswith("spectrograms/images/")

    def test_a_picture_shows_the_tile(self, project):
        tile = json.loads((project.folder / "training_pairs.json").read_text())["tiles"][0]
        picture = np.asarray(Image.open(project.folder / tile["image"]).convert("L"), float)
        painter = stage2.TilePainter(SETTINGS)
        inside = picture[painter._rows, painter._columns]
        x = np.load(project.folder / tile["array"])
        shown = inside[:: -(inside.shape[0] // 128), :: inside.shape[1] // 256][:128, :256]
        assert (
            np.corrcoef(np.interp(np.linspace(0, 127, len(shown)), range(128), x.mean(axis=1)), shown.mean(axis=1))[
                0, 1
            ]
            > 0.8
        )
        outside = picture.copy()
        outside[painter._rows, painter._columns] = 255
        assert (outside < 100).sum() > 1000  # axes, ticks and title are there

    def test_a_second_run_converts_what_changed_and_removes_only_what_it_wrote(self, tmp_path):
        write_library(tmp_path, 5, 1.0)
        run("measure_audio_grain.py", cwd=tmp_path)
        run("convert_to_spectrograms.py", cwd=tmp_path)
        mine = tmp_path / "spectrograms" / "arrays" / "mine.npy"
        mine.write_bytes(b"not yours")
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(4), SR)
        kept = {
            path: path.stat().st_mtime_ns
            for path in tmp_path.rglob("*.npy")
            if files[2].stem.replace(" ", "_") in path.name
        }
        run("measure_audio_grain.py", cwd=tmp_path)
        ran = run("convert_to_spectrograms.py", cwd=tmp_path)
        assert "1 converted, 3 unchanged, 1 gone" in ran.out
        assert mine.read_bytes() == b"not yours"
        assert kept
        assert kept == {path: path.stat().st_mtime_ns for path in kept}
        named = {tile["array"] for tile in json.loads((tmp_path / "training_pairs.json").read_text())["tiles"]}
        there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npy")} - {
            "spectrograms/arrays/mine.npy"
        }
        assert there == named

    def test_without_images(self, tmp_path):
        write_library(tmp_path, 2, 1.0)
        run("measure_audio_grain.py", cwd=tmp_path)
        assert run("convert_to_spectrograms.py", "--no-images", cwd=tmp_path).status == 0
        assert not list(tmp_path.rglob("*.png"))
        assert "2 converted" in run("convert_to_spectrograms.py", cwd=tmp_path).out  # now with pictures
        assert len(list(tmp_path.rglob("*.png"))) == 2

    def test_tiles_of_an_earlier_version_are_made_again(self, copied):
        pairs = copied.folder / "training_pairs.json"
        before = pairs.read_text()
        pairs.write_text(before.replace('"dynamic_range_db": 100.0', '"dynamic_range_db": 80.0'))
        ran = run("convert_to_spectrograms.py", "--no-images", cwd=copied.folder)
        assert ran.status == 0, ran.err
        assert " 0 unchanged" in ran.out
        assert json.loads(pairs.read_text())["settings"]["dynamic_range_db"] == 100.0
        assert all((copied.folder / tile["array"]).exists() for tile in json.loads(pairs.read_text())["tiles"])

    def test_a_file_changed_or_gone_since_is_named_and_stops_nothing(self, tmp_path):
        write_library(tmp_path, 4, 1.0)
        run("measure_audio_grain.py", cwd=tmp_path)
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(2), SR)
        ran = run("convert_to_spectrograms.py", cwd=tmp_path)
        assert ran.status == 1
        assert f"{files[0].name}: not readable (No such file or directory)" in ran.err
        assert f"{files[1].name}: changed since it was measured" in ran.err
        assert "2 files, 2 skipped" in ran.out

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            (None, "{", "metadata.json: not readable as JSON"),
            ("version", 7, "field version is 7, this program reads 1"),
            ("settings", {}, "settings: field sample_rate_hz is missing"),
            ("files", "all", "field files is not a list"),
            ("files", [3], "files[0]: is a int, not an object"),
            ("files", [], "names no measured file"),
            ("grain", -1.0, "files[0]: field grain is -1.0, not within 0 to 1"),
            ("grain", "x", "files[0]: field grain is 'x', not a float"),
            ("size_bytes", None, "files[0]: field size_bytes is None, not a int"),
            ("grain", 10**400, "files[0]: field grain is not a finite number"),
        ],
    )
    def test_damaged_metadata_is_one_line(self, copied, field, value, message):
        path = copied.folder / "metadata.json"
        content = json.loads(path.read_text())
        if field is None:
            path.write_text(value)
        else:
            (content if field in content else content["files"][0])[field] = value
            path.write_text(json.dumps(content))
        before = (copied.folder / "training_pairs.json").read_bytes()
        ran = run("convert_to_spectrograms.py", cwd=copied.folder)
        assert ran.status == 2
        assert message in ran.err
        assert len(ran.err.splitlines()) == 1
        assert (copied.folder / "training_pairs.json").read_bytes() == before

    def test_missing_metadata_names_the_command_that_makes_it(self, tmp_path):
        ran = run("convert_to_spectrograms.py", cwd=tmp_path)
        assert ran.status == 2
        assert "metadata.json: no such file; make it with: python measure_audio_grain.py" in ran.err

    def test_pairs_of_other_settings_are_refused(self, copied):
        path = copied.folder / "training_pairs.json"
        content = json.loads(path.read_text())
        content["settings"]["tile_frames"] = 128
        path.write_text(json.dumps(content))
        with pytest.raises(PipelineError, match="settings: field tile_frames is 128"):
            read_pairs(path)
