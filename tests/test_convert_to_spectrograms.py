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

import convert_to_spectrograms as stage2
from convert_to_spectrograms import (
    AmountSolver,
    analyse,
    band_weights,
    bin_weights,
    bins_per_band,
    default_settings,
    fill_tile,
    hold_energy,
    limit_gain,
    limit_peaks,
    log_mel,
    log_mel_of,
    move_grain,
    read_pairs,
    render_blocks,
    smooth_in_time,
    spectral_expander,
    tile_starts,
)
from measure_audio_grain import GrainSettings, PipelineError, measure_grain, sound_from_array

SETTINGS = default_settings(GrainSettings())


def rendered(y: np.ndarray, sr: int, gain_db: np.ndarray) -> np.ndarray:
    return np.concatenate(list(render_blocks(sound_from_array(y, sr), gain_db, SETTINGS)))


def n_frames(y: np.ndarray, sr: int) -> int:
    return analyse(sound_from_array(y, sr), SETTINGS).x.shape[1]


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
        z = rendered(y, sr, np.zeros((128, n_frames(y, sr)), np.float32))
        assert z.shape == y.shape
        assert np.abs(z - y).max() < 1e-6

    def test_the_same_gain_everywhere_is_no_gain(self):
        y = drone()[:, None]
        z = rendered(y, SR, np.full((128, n_frames(y, SR)), 12.0, np.float32))
        above_band = 20 * np.log10(np.abs(z - y).max() / np.abs(y).max())
        assert above_band < -60  # only what lies below 50 Hz is left alone

    def test_one_raised_band_raises_its_sine_against_the_other(self):
        y = (sine(500, level=0.2) + sine(5000, level=0.2))[:, None]
        gain_db = np.zeros((128, n_frames(y, SR)), np.float32)
        gain_db[np.array(SETTINGS.band_edges_hz[1:-1]) > 2000] = 12.0
        spectrum = np.abs(np.fft.rfft(rendered(y, SR, gain_db)[SR // 2 : SR // 2 + SR, 0]))
        assert 20 * np.log10(spectrum[5000] / spectrum[500]) == pytest.approx(12.0, abs=0.05)

    def test_energy_in_the_band_is_held_and_below_it_left_alone(self):
        rng = np.random.default_rng(0)
        power, gain_db = (
            rng.exponential(size=(20, 1025)).astype(np.float32),
            rng.normal(0, 20, (20, 1025)).astype(np.float32),
        )
        gain = hold_energy(gain_db, power, slice(3, 697))
        np.testing.assert_allclose((power * gain)[:, 3:697].sum(axis=1), power[:, 3:697].sum(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(gain[:, :3], 1)
        np.testing.assert_allclose(
            10 * np.log10(gain[:, 300] / gain[:, 500]), gain_db[:, 300] - gain_db[:, 500], atol=1e-3
        )

    def test_stereo_image_is_kept(self):
        y = drone()[:, None] * np.array([[1.0, 0.25]])
        a = analyse(sound_from_array(y, SR), SETTINGS)
        z = rendered(y, SR, -0.5 * spectral_expander(a.x, 80.0))
        np.testing.assert_allclose(z[:, 1], 0.25 * z[:, 0], atol=1e-6)


class TestSolver:
    @pytest.fixture(scope="class")
    @classmethod
    def analysis(cls):
        return analyse(sound_from_array(drone(-45), SR), SETTINGS)

    def test_octaves_equal_a_slow_calculation_from_the_definition(self, analysis):
        expander = spectral_expander(analysis.x, 80.0)
        solver = AmountSolver(analysis, expander)
        level_db = 80 * smooth_in_time(analysis.x, stage2.LIMIT_FRAMES)

        def grain(amount):
            total = []
            spectra = []
            for power, frame in zip(analysis.probe.power.astype(float), analysis.probe.index, strict=True):
                level = level_db[:, frame].astype(float)
                share = 10 ** (level / 10) * bins_per_band(SETTINGS)
                wanted = amount * expander[:, frame].astype(float)
                room = level.max() - level + (share * wanted).sum() / share.sum()
                gain = 10 ** (np.minimum(wanted, room) @ analysis.probe.weights / 10)
                moved = (power * gain)[analysis.probe.band]
                spectra.append(moved * power[analysis.probe.band].sum() / moved.sum())
            peak = max(spectrum.max() for spectrum in spectra)
            for spectrum in spectra:
                total.append(
                    float(librosa.feature.spectral_flatness(S=np.sqrt(spectrum / peak)[:, None], amin=1e-10)[0, 0])
                )
            return np.mean(total)

        for amount in (-0.4, 0.3):
            assert solver.octaves(amount) == pytest.approx(math.log2(grain(0) / grain(amount)), abs=1e-3)

    @pytest.mark.parametrize("octaves", [-3, -0.01, 0.01, 1, 3])
    def test_the_amount_found_gives_the_octaves(self, analysis, octaves):
        solver = AmountSolver(analysis, spectral_expander(analysis.x, 80.0))
        found = solver.solve(octaves)
        assert found.within_reach
        assert solver.octaves(found.pattern, found.expander) == pytest.approx(octaves, abs=1e-3)

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

    def test_beyond_the_reach_it_goes_as_far_as_it_can_and_says_so(self):
        y = noise(2)
        a = analyse(sound_from_array(y, SR), SETTINGS)
        result = move_grain(a, spectral_expander(a.x, 80.0), -3.0)
        assert not result.within_reach
        assert -3 < result.got_octaves < 0.0

    def test_where_the_pattern_ends_the_expander_carries_on(self, analysis):
        useless = np.zeros_like(analysis.x)
        result = move_grain(analysis, useless, -1.0)
        assert result.expander_amount < 0
        assert result.got_octaves == pytest.approx(-1.0, abs=0.02)


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
    a = analyse(sound_from_array(y, sr), SETTINGS)
    pattern_db = spectral_expander(a.x, 80.0)
    for octaves in (-2, -1, 0.5, 1):
        result = move_grain(a, pattern_db, octaves)
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


def test_at_zero_the_sound_itself_comes_back():
    sound = sound_from_array(drone(), SR)
    a = analyse(sound, SETTINGS)
    result = move_grain(a, spectral_expander(a.x, 80.0), 0.0)
    assert result.sound is sound
    assert result.got_octaves == 0.0


def test_near_zero_the_output_converges_to_the_input():
    y = drone()[:, None].astype(np.float32)
    a = analyse(sound_from_array(y, SR), SETTINGS)
    z = np.concatenate(list(move_grain(a, spectral_expander(a.x, 80.0), 0.02).sound.blocks()))
    assert 20 * np.log10(np.sqrt(np.mean((z - y) ** 2)) / np.sqrt(np.mean(y**2))) < -40


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
