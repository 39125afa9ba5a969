"""Resynthesis: gains on each layer, the generated noise, pieces and threads; and pictures of long sounds."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, drone, noise, sine
from rendering import SETTINGS, analysis_of

from neural_grain.audio import sound as audio_sound
from neural_grain.audio.sound import sound_from_array
from neural_grain.base import files
from neural_grain.dsp import flatness, mel, resynthesis
from neural_grain.dsp.analysis import Analysis, analyse
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gains import BandGains, StepGains
from neural_grain.dsp.resynthesis import LayerRenderer


def rendered(
    analysis: Analysis,
    *,
    noise_db: np.ndarray | float = 0.0,
    generated_db: np.ndarray | None = None,
    expander_db: np.ndarray | None = None,
    transients_db: float = 0.0,
    level_db: float = 0.0,
    threads: int = 1,
) -> np.ndarray:
    """The sound with gains that broadcast to (n_mels, steps), or that hold for all its time."""
    shape = analysis.texture_db.shape

    def gains(start: int, stop: int) -> StepGains:
        of_bands = (
            None if db is None else np.broadcast_to(np.float32(db), shape)[:, start:stop]
            for db in (noise_db, generated_db, expander_db)
        )
        n_steps = len(range(shape[1])[start:stop])
        return StepGains(BandGains(*of_bands), np.full(n_steps, transients_db), np.full(n_steps, level_db))

    return np.concatenate(list(LayerRenderer(analysis).render(gains, threads=threads)))


def in_bands(y: np.ndarray, hz: float, sr: int = SR) -> float:
    """Level of a mono sound within 5 % of a frequency, in dB."""
    P = np.square(np.abs(np.fft.rfft(y[:, 0] * np.hanning(len(y)))))
    at = np.fft.rfftfreq(len(y), 1 / sr)
    return 10 * np.log10(P[(at > 0.95 * hz) & (at < 1.05 * hz)].sum())


@pytest.fixture(scope="module")
def stereo() -> Analysis:
    y = np.stack([drone(-30), drone(-40, seed=1)], axis=1)
    y[SR] += 0.5
    return analysis_of(y)


class TestGainsOnLayers:
    @pytest.mark.parametrize(
        ("sr", "length", "channels"),
        [(44_100, 44_100, 1), (48_000, 20_001, 2), (8_000, 5_000, 6), (192_000, 100_003, 2)],
    )
    @pytest.mark.parametrize("expander_db", [None, 0.0])
    def test_gains_of_zero_return_the_input(self, sr, length, channels, expander_db):
        y = np.random.default_rng(1).uniform(-1, 1, (length, channels)).astype(np.float32)
        z = rendered(analysis_of(y, sr), expander_db=expander_db)
        assert z.shape == y.shape
        assert np.abs(z - y).max() < 1e-6

    @pytest.mark.parametrize(("noise_db", "transients_db"), [(-200.0, -400.0), (6.0, -12.0)])
    def test_each_layer_gets_its_own_gain(self, stereo, noise_db, transients_db):
        layers, level_db = stereo.layers, 3.0
        z = rendered(stereo, noise_db=noise_db, transients_db=transients_db, level_db=level_db)
        expected = layers.tones + sum(
            10 ** (db / 20) * layer for db, layer in ((transients_db, layers.transients), (noise_db, layers.noise))
        )
        inside = slice(8_192, -8_192)
        error = np.fft.rfft((z - 10 ** (level_db / 20) * expected)[inside, 0] * np.hanning(len(z) - 2 * 8_192))
        whole = np.fft.rfft(layers.noise[inside, 0] * np.hanning(len(z) - 2 * 8_192))
        above = np.fft.rfftfreq(len(z) - 2 * 8_192, 1 / SR) > 100  # the noise below 50 Hz is left as it is
        assert np.std(error[above]) < 0.02 * np.std(whole[above])

    def test_raising_some_bands_raises_their_noise_by_that_gain(self):
        noise_db = np.where(np.array(SETTINGS.band_edges_hz[1:-1]) > 2_000, 12.0, 0.0)[:, None]
        analysis = analysis_of(np.random.default_rng(0).normal(0, 0.1, 4 * SR))
        before, after = rendered(analysis), rendered(analysis, noise_db=noise_db)
        assert in_bands(after, 5_000) - in_bands(before, 5_000) == pytest.approx(12.0, abs=0.2)
        assert in_bands(after, 500) - in_bands(before, 500) == pytest.approx(0.0, abs=0.05)

    def test_the_expander_raises_tones_and_none_below_the_band(self):
        y = sine(500, level=0.2) + sine(5_000, level=0.2) + sine(25, level=0.2)
        expander_db = np.where(np.array(SETTINGS.band_edges_hz[1:-1]) > 2_000, 12.0, 0.0)[:, None]
        z = rendered(analysis_of(y), expander_db=expander_db)
        assert in_bands(z, 5_000) - in_bands(z, 500) == pytest.approx(12.0, abs=0.1)
        assert in_bands(z, 500) - in_bands(z, 25) == pytest.approx(0.0, abs=0.1)

    def test_the_stereo_image_stays(self):
        analysis = analysis_of(drone()[:, None] * np.array([[1.0, 0.25]]))
        z = rendered(analysis, noise_db=-0.3 * analysis.texture_db, transients_db=9.0)
        np.testing.assert_allclose(z[:, 1], 0.25 * z[:, 0], atol=2e-6)


class TestGeneratedNoise:
    def test_it_has_the_level_of_each_band(self):
        analysis = analysis_of(drone(-60, 6.0) * 0.1)
        level_db = np.linspace(-20, -60, 128, dtype=np.float32)[:, None]
        added = rendered(analysis, generated_db=level_db) - rendered(analysis)
        P = np.square(np.abs(np.fft.rfft(added[:, 0]))) / len(added)  # power for each bin of white noise of power P
        hz, centres = np.fft.rfftfreq(len(added), 1 / SR), np.array(SETTINGS.band_edges_hz[1:-1])
        window_energy = 0.375 * 2_048
        for b in range(10, 120, 10):
            near = np.abs(hz - centres[b]) < 0.1 * centres[b]
            expected = level_db[:, 0] + 10 * np.log10(analysis.band_peak / window_energy)
            assert 10 * np.log10(P[near].mean()) == pytest.approx(np.interp(centres[b], centres, expected), abs=0.7)

    def test_it_follows_the_texture_of_each_channel_and_begins_with_it(self):
        y = np.stack([drone(-40), 0.25 * drone(-40, seed=1), np.zeros(3 * SR)], axis=1)
        y[:SR] = 0
        analysis = analysis_of(y)
        added = rendered(analysis, generated_db=np.full((128, 1), -40.0)) - rendered(analysis)
        level_db = 20 * np.log10(added[3 * SR // 2 :].std(axis=0) + 1e-12)
        assert level_db[0] - level_db[1] == pytest.approx(12.0, abs=0.5)
        assert level_db[2] < level_db[0] - 100
        assert np.abs(added[: SR - SR // 1_000]).max() < 0.02 * np.abs(added).max()

    def test_its_shares_of_the_channels_follow_the_noise_from_step_to_step(self):
        t = np.arange(3 * SR) / (3 * SR)
        y = np.stack([noise(3.0) * np.sqrt(1 - t), noise(3.0, seed=1) * np.sqrt(t)], axis=1)
        renderer, steps = LayerRenderer(analysis_of(y)), np.arange(4, 60)
        shares = renderer.noise_shares(steps)
        middles = (4 * steps + 2) * 512 - 1_536 + 1_024 - 256  # of the windows of the four frames of a step
        expected = 1 - middles / (3 * SR)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=0.15)  # lowered where the noise begins to fall
        assert np.mean(shares[:, 0] / shares.sum(axis=1) - expected) == pytest.approx(0, abs=0.006)

    def test_channels_are_independent_and_every_rendering_is_the_same(self, stereo):
        level_db = np.full((128, 1), -30.0)
        added = rendered(stereo, generated_db=level_db) - rendered(stereo)
        assert abs(np.corrcoef(added.T)[0, 1]) < 0.02
        np.testing.assert_array_equal(added, rendered(stereo, generated_db=level_db) - rendered(stereo))


def test_gains_that_differ_between_bands_are_not_heard_before_a_start():
    y = 0.5 * drone(-20)
    y[:SR] = 0
    analysis, gain_db = analysis_of(y), np.linspace(-30, 30, 128)[:, None]
    for gains in ({"noise_db": gain_db}, {"expander_db": gain_db}):
        z = rendered(analysis, **gains)
        assert np.abs(z[: SR - 20]).max() < 1e-4 * np.abs(z).max()


class TestPieces:
    @property
    def changing(self) -> dict:
        return {"generated_db": np.full((128, 1), -40.0), "expander_db": np.linspace(-9, 9, 128)[:, None]}

    def test_one_thread_and_three_give_the_same_samples(self, stereo, monkeypatch):
        monkeypatch.setattr(resynthesis, "PIECE_SAMPLES", 5_000)
        one, three = (rendered(stereo, **self.changing, threads=threads) for threads in (1, 3))
        np.testing.assert_array_equal(one, three)

    @pytest.mark.parametrize("samples", [1_000, 12_345])
    def test_the_length_of_the_pieces_changes_nothing(self, stereo, monkeypatch, samples):
        whole = rendered(stereo, noise_db=-0.2 * stereo.texture_db, **self.changing)
        monkeypatch.setattr(resynthesis, "PIECE_SAMPLES", samples)
        pieces = rendered(stereo, noise_db=-0.2 * stereo.texture_db, **self.changing)
        assert np.abs(pieces - whole).max() < 1e-5 * np.abs(whole).max()


class TestLongSounds:
    def test_arrays_too_large_for_memory_are_kept_in_files(self, monkeypatch):
        y = drone()
        in_memory = analyse(sound_from_array(y, SR), SETTINGS)
        monkeypatch.setattr(files, "SCRATCH_BYTES", 1_000)
        monkeypatch.setattr(mel, "PIECE_FRAMES", 50)
        in_file = analyse(sound_from_array(y, SR), SETTINGS)
        assert isinstance(in_file.x, np.memmap)
        assert isinstance(in_file.layers.noise, np.memmap)
        in_file.layers.release_pages()
        np.testing.assert_allclose(in_file.x, in_memory.x, atol=1e-6)
        np.testing.assert_array_equal(rendered(in_file, noise_db=3.0), rendered(in_memory, noise_db=3.0))

    @pytest.mark.parametrize("block_frames", [50, 64, 128])
    def test_grain_does_not_depend_on_blocks_where_a_sound_grows_louder(self, monkeypatch, block_frames):
        y = np.concatenate([drone(-90) * 10 ** (db / 20) for db in (-50, -30, -10, 0)])
        y = np.concatenate([y, 0.9 * sine(1000, 0.5)])  # the last half second raises the floor of all frames before it
        expected = measure_grain(sound_from_array(y, SR))
        monkeypatch.setattr(flatness, "MAX_KEPT_FRAMES", 100)
        monkeypatch.setattr(audio_sound, "BLOCK_FRAMES", block_frames)
        assert measure_grain(sound_from_array(y, SR)) == pytest.approx(expected, rel=1e-6)
        assert analyse(sound_from_array(y, SR), SETTINGS).grain == pytest.approx(expected, rel=1e-6)
