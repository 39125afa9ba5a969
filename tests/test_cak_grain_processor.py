"""Stage 3: the referees are right, training is repeatable and can go on, checkpoints are safe and small."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import ROOT, run, write_library
from scipy.stats import multivariate_normal

import cak_grain_processor as stage3
from cak_grain_processor import (
    AuditGame,
    GrainModel,
    Tiles,
    audited_octaves,
    held_energy,
    load_model,
    natural_distance,
    pattern_in_db,
    read_checkpoint,
)
from convert_to_spectrograms import band_powers_of, bins_per_band, default_settings, log_mel_of, read_pairs
from measure_audio_grain import GrainSettings, PipelineError, sound_from_array

SETTINGS = default_settings(GrainSettings())
SHARES = torch.tensor(bins_per_band(SETTINGS), dtype=torch.float32)[:, None]
RANGE_DB = SETTINGS.dynamic_range_db


def tiles(n: int = 3, frames: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 128, frames)).astype(np.float32))


def randomised(seed: int = 0) -> GrainModel:
    """A model whose last layer is not zero, as after training."""
    torch.manual_seed(seed)
    model = GrainModel(SETTINGS)
    torch.nn.init.normal_(model.detector.mix.weight, std=0.1)
    return model.eval()


class TestModel:
    def test_control_zero_changes_nothing(self):
        assert torch.equal(randomised()(tiles(), torch.zeros(3)), torch.zeros(3, 128, 40))

    def test_the_gate_is_signed_and_grows_with_control(self):
        model = randomised()
        controls = torch.linspace(-3, 3, 61)
        effective = controls * model.gate(controls)
        assert torch.all(effective.diff() > 0)
        torch.testing.assert_close(effective, -effective.flip(0))

    def test_each_direction_has_its_pattern(self):
        x, model = tiles(2), randomised()
        both = model.detector.cells(x)
        for i, direction in ((0, 0.5), (1, -2.0)):
            pattern = model.detector(x, torch.full((2,), direction))
            torch.testing.assert_close(pattern[:, :, :16].mean(2), both[:, i, :, 0], atol=1e-5, rtol=1e-4)
        assert (both[:, 0] - both[:, 1]).abs().max() > 0.1
        mixed = model.detector(x, torch.tensor([1.0, -1.0]))
        assert torch.equal(mixed[0], model.detector(x, torch.ones(2))[0])
        assert torch.equal(mixed[1], model.detector(x, -torch.ones(2))[1])

    def test_it_starts_as_the_spectral_expander(self):
        x = torch.rand(1, 128, 1).expand(1, 128, 40)
        for direction in (torch.ones(1), -torch.ones(1)):
            pattern = GrainModel(SETTINGS).detector(x, direction)
            torch.testing.assert_close(pattern, x - x.mean(1, keepdim=True), atol=1e-5, rtol=0)

    def test_a_unit_of_control_is_an_octave(self):
        x, model = tiles(3, 1).expand(3, 128, 40) * 0.5 + 0.5, GrainModel(SETTINGS)
        model.temperature.fill_(1e3)
        for control in (-0.5, 0.5, 1.0, 2.0):
            controls = torch.full((3,), control)
            got = model.octaves(x, model(x, controls))
            torch.testing.assert_close(got, controls, atol=0.05, rtol=0.05)

    def test_asked_for_more_than_there_is_it_goes_to_the_top_and_not_over_it(self):
        model, x = GrainModel(SETTINGS), torch.zeros(1, 128, 64)
        x[:, 20:23] = 0.2
        model.temperature.fill_(1e3)
        for claim in (-1.0, -2.0, -2.8):  # flat is 0.59 octaves up
            assert model.octaves(x, model(x, torch.tensor([claim]))).item() < -0.55

    def test_a_long_picture_in_pieces_gives_the_same_pattern(self, monkeypatch):
        x, model = 0.5 + 0.05 * tiles(1, 1500)[0].numpy(), randomised()  # some of it noise
        whole = pattern_in_db(model, x, SETTINGS)
        monkeypatch.setattr(stage3, "CHUNK_FRAMES", 256)
        np.testing.assert_allclose(pattern_in_db(model, x, SETTINGS), whole, atol=1e-3)
        assert whole.shape == (2, 128, 47)

    @pytest.mark.parametrize("frames", [1, 5, 17])
    def test_short_pictures_work(self, frames):
        assert pattern_in_db(randomised(), tiles(1, frames)[0].numpy(), SETTINGS).shape == (2, 128, 1)
        assert randomised().pattern(tiles(1, frames), torch.ones(1)).shape == (1, 128, frames)

    def test_frames_far_away_do_not_matter(self):
        x, model = tiles(1, 480), randomised()
        other = x.clone()
        other[:, :, 380:] = 0.5
        near, same = (model.detector(picture, torch.ones(1))[:, :, :200] for picture in (other, x))
        torch.testing.assert_close(near, same, atol=1e-6, rtol=1e-5)


def breathy(level_db: float, rng: np.random.Generator, tones: bool = True) -> np.ndarray:
    """A tile of tones with noise above 4 kHz at a level, and hiss that stands still below."""
    sr, n = 44_100, 2048 + 255 * 512
    hz = np.fft.rfftfreq(n, 1 / sr)
    y = sum(np.sin(2 * np.pi * k * 150.7 * np.arange(n) / sr + k) / k for k in range(1, 20)) if tones else 0.0
    high = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * (hz > 4000), n)
    low = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * (hz < 4000), n)
    y = y + 10 ** (level_db / 20) * high + 10 ** (-45 / 20) * low
    return log_mel_of(sound_from_array(np.float32(0.1 * y), sr), SETTINGS)


@pytest.fixture(scope="module")
def breath() -> Tiles:
    """A library of tiles with many levels of breath."""
    rng = np.random.default_rng(0)
    return Tiles.of([breathy(level, rng) for level in rng.uniform(-50, -10, 32)], SETTINGS)


@pytest.fixture(scope="module")
def breath_game(breath) -> AuditGame:
    torch.manual_seed(0)
    return AuditGame(SETTINGS, breath, seed=0)


@pytest.fixture
def brief_critic(monkeypatch):
    """For what does not hang on what the noise critic says: it learns for a moment."""
    monkeypatch.setattr(stage3, "LAW_STEPS", 40)
    monkeypatch.setattr(stage3, "LAW_TRIAL_STEPS", 5)


def changed(game: AuditGame, level_db: float, more: float) -> np.ndarray:
    """What the noise critic says of a breathy tile with more breath: the change of each band, of x."""
    tile = Tiles.of([breathy(level_db, np.random.default_rng(1))], SETTINGS)
    x, fluctuations = tile.crops(1, np.random.default_rng(0))
    return game.critic.with_more(x, fluctuations, torch.tensor([more]))[0].numpy()


class TestReferees:
    def test_the_auditor_agrees_with_librosa_on_the_bins(self):
        """Flat inside each band, gains constant inside each band: then band powers decide everything."""
        rng = np.random.default_rng(0)
        counts = np.full(128, 5)
        shares = torch.tensor(counts / counts.sum(), dtype=torch.float32)[:, None]
        x, change = rng.uniform(0.3, 1, (128, 6)), rng.normal(0, 0.1, (128, 6))

        def grain(picture: np.ndarray) -> float:
            power = np.repeat(10 ** (RANGE_DB * (picture - 1) / 10), counts, axis=0)
            return float(librosa.feature.spectral_flatness(S=np.sqrt(power), amin=1e-30).mean())

        measured = audited_octaves(
            torch.tensor(x[None], dtype=torch.float32),
            torch.tensor(change[None], dtype=torch.float32),
            shares,
            RANGE_DB,
            400.0,
        )
        assert measured.item() == pytest.approx(math.log2(grain(x) / grain(x + change)), abs=1e-3)

    def test_the_auditor_does_not_count_silent_frames(self):
        x, change = tiles(1), 0.1 * tiles(1, seed=1)
        alone = audited_octaves(x, change, SHARES, RANGE_DB, 40.0)
        silence = torch.zeros(1, 128, 10)
        both = audited_octaves(
            torch.cat((x, silence), 2), torch.cat((change, tiles(1, 10, 5)), 2), SHARES, RANGE_DB, 40.0
        )
        torch.testing.assert_close(alone, both)

    def test_the_share_of_noise_is_found_beside_tones_that_beat(self):
        """Two tones that beat 13 times a second with noise under them: its share of their band's power to 2 dB."""
        sr, n = 44_100, 2048 + 255 * 512
        t = np.arange(n) / sr
        tones = np.sin(2 * np.pi * 3000 * t) + 0.7 * np.sin(2 * np.pi * 3013 * t)
        noise = np.random.default_rng(0).standard_normal(n)
        band = np.argmin(np.abs(np.array(SETTINGS.band_edges_hz[1:-1]) - 3000))

        def picture(y):
            return torch.from_numpy(log_mel_of(sound_from_array(np.float32(y), sr), SETTINGS))[None]

        def fluctuation(y):
            spectra = stage3.modulation_beside_noise(picture(y), stage3.noise_modulation(SETTINGS), RANGE_DB)
            return stage3.fluctuation_of(spectra.mean(2))[0]

        def share(y):
            return stage3.noise_share(fluctuation(y), torch.ones(128))

        assert 0.85 < fluctuation(noise).median() < 1.1
        assert fluctuation(noise).log().std() < 0.2  # chance, nepers
        assert share(tones)[band] < 1e-3
        for level in (1.5, 4, 10, 30):  # shares from 1.6 to 87 %
            powers = [
                band_powers_of(sound_from_array(np.float32(y), sr), SETTINGS)[:, band].mean()
                for y in (tones, level * noise)
            ]
            expected = powers[1] / sum(powers)
            assert abs(10 * math.log10(share(tones + level * noise)[band] / expected)) < 2

    def test_crackle_is_known_by_how_much_the_library_fluctuates(self):
        """Clicks over a tone, of a library of such: their share of the power, from 2 % to nearly all."""
        sr, n = 44_100, 2048 + 255 * 512
        rng = np.random.default_rng(0)
        tone = np.sin(2 * np.pi * 3000 * np.arange(n) / sr)
        band = np.argmin(np.abs(np.array(SETTINGS.band_edges_hz[1:-1]) - 3000))

        def clicks():
            return 30 * rng.standard_normal(n) * (rng.random(n) < 80 / sr)

        def fluctuation(y):
            picture = torch.from_numpy(log_mel_of(sound_from_array(np.float32(y), sr), SETTINGS))[None]
            spectra = stage3.modulation_beside_noise(picture, stage3.noise_modulation(SETTINGS), RANGE_DB)
            return stage3.fluctuation_of(spectra.mean(2))

        library = torch.cat([fluctuation(tone + level * clicks()) for level in np.geomspace(0.1, 30, 24)])
        full = stage3.full_fluctuation(library)
        hiss = torch.cat([fluctuation(level * rng.standard_normal(n) + tone) for level in np.geomspace(0.1, 30, 24)])
        assert stage3.full_fluctuation(hiss).max() < 1.25
        for level in (0.7, 2, 6):
            y = clicks()
            powers = [
                band_powers_of(sound_from_array(np.float32(z), sr), SETTINGS)[:, band].mean() for z in (tone, level * y)
            ]
            expected = powers[1] / sum(powers)
            got, as_noise = (
                10 * math.log10(stage3.noise_share(fluctuation(tone + level * y)[0], of)[band] / expected)
                for of in (full, torch.ones(128))
            )
            assert abs(got) < 1.5
        assert as_noise > 3  # as Gaussian noise, what are loud clicks over a tone would be all of it

    def test_the_law_of_noise_counts_from_the_energy_of_a_sound_whatever_its_chord(self):
        """The same hiss under one tone and under thirty of the same energy: under the loudest band, 15 dB apart."""
        sr, n = 44_100, 2048 + 255 * 512
        t = np.arange(n) / sr
        hiss = 1e-3 * np.random.default_rng(0).standard_normal(n)
        above = np.array(SETTINGS.band_edges_hz[1:-1]) > 4500
        critic, found = stage3.NaturalNoise(SETTINGS), []
        torch.nn.init.zeros_(critic.net[4].weight)  # a law that is the same for all
        for tones in (1, 30):
            chord = sum(np.sin(2 * np.pi * 110 * k * t + k * k) for k in range(1, tones + 1))
            y = np.float32(chord / np.sqrt(np.square(chord).mean()) + hiss)
            tile = Tiles.of([log_mel_of(sound_from_array(y, sr), SETTINGS)], SETTINGS)
            noise, (base, *_) = critic(tile.levels, tile.fluctuations)
            found.append(RANGE_DB * (noise - base)[0, above].mean().item())
        assert abs(found[0] - found[1]) < 0.5

    def test_the_critic_learns_how_a_library_gets_noisier(self, breath_game):
        """Tones with noise above 4 kHz and hiss that stands still below: more noise is more of the first alone."""
        centres = np.array(SETTINGS.band_edges_hz[1:-1])
        change = RANGE_DB * changed(breath_game, -30.0, 0.12)
        high = change[(centres > 4500) & (centres < 14_000)]
        assert high.std() < 0.15 * high.mean()  # all of it rises as one
        assert np.abs(change[centres < 3500]).max() < 0.15 * high.mean()
        less = RANGE_DB * changed(breath_game, -30.0, -0.12)
        # Of the 12 dB that its noise is asked to fall: most of these bands is noise.
        assert less[(centres > 4500) & (centres < 14_000)].mean() < -5
        assert np.abs(less[centres < 3500]).max() < 0.15 * high.mean()

    def test_tones_are_taken_away_and_noise_stays(self, breath, breath_game):
        """Of breath at -30 dB under tones up to 2.9 kHz."""
        tile = Tiles.of([breathy(-30.0, np.random.default_rng(1))], SETTINGS)
        x, fluctuations = torch.from_numpy(tile.arrays[0])[None], tile.fluctuations
        bare = torch.zeros(1, 128, dtype=torch.bool)
        bare[:, 20:120] = True
        y, new_fluctuations = breath_game.critic.without_tones(x, fluctuations, bare)
        alone = breathy(-30.0, np.random.default_rng(1), tones=False)
        away_db = RANGE_DB * (y[0].mean(1).numpy() - alone.mean(1))
        away_db -= np.median(away_db[90:120])  # the picture counts from its loudest band
        assert RANGE_DB * np.ptp((x[0].mean(1).numpy() - alone.mean(1))[20:120]) > 40
        assert np.abs(away_db[20:120]).mean() < 3
        kept = ~bare[0]
        assert torch.equal(y[0, kept], x[0, kept])
        assert torch.equal(new_fluctuations[0, kept], fluctuations[0, kept])
        assert torch.equal(new_fluctuations[bare], breath_game.critic.full_fluctuation[20:120])

    @pytest.mark.parametrize(
        ("likely_db", "spread_db", "measured_db", "found_db"),
        [
            (0, 8, -4, (-1.5, 0)),  # all noise, as the law has it: that it looks less is chance
            (-10, 8, -10, (-10.5, -9.5)),
            (-30, 8, -15, (-17, -14)),  # a vague law: what is measured counts
            (-30, 2, -15, (-31, -29)),  # a sure one: something else fluctuates
            (-10, 8, 0, (-0.5, 0)),
        ],
    )
    def test_law_and_measurement_together_tell_the_share_of_noise(self, likely_db, spread_db, measured_db, found_db):
        critic, level = stage3.NaturalNoise(SETTINGS), torch.full((1, 128), 0.8)
        law = (
            *(torch.zeros(1, 1) for _ in range(3)),
            torch.full((1, 1), spread_db / RANGE_DB),
            torch.full((1, 1), -4.0),
        )
        share = 10 ** (measured_db / 10)
        found = critic.share(law, level + likely_db / RANGE_DB, level, torch.full((1, 1), share * (2 - share)))
        assert found_db[0] <= 10 * math.log10(found[0, 0].item()) <= found_db[1]

    def test_the_solved_amount_has_the_grain_claimed(self, breath_game):
        x = 0.3 + 0.7 * tiles(4, stage3.CELL_FRAMES) ** 4
        pattern = 0.25 * (x - x.mean(1, keepdim=True))
        claim = torch.tensor([-0.5, 0.4, 1.0, 2.0])
        amount = breath_game.solved(x, pattern, claim)
        got = audited_octaves(x, pattern * amount[:, None, None], SHARES, RANGE_DB, 40.0)
        torch.testing.assert_close(got, claim, atol=0.02, rtol=0)

    def test_the_distance_to_one_natural_tile_is_the_mean_square(self):
        moved, natural = tiles(3).mean(2), tiles(1, seed=1).mean(2)
        expected = (moved - natural).square().mean(1)
        torch.testing.assert_close(natural_distance(moved, natural), expected, atol=1e-6, rtol=1e-3)

    def test_the_distance_is_to_the_natural_tile_that_a_moved_one_resembles(self):
        moved = tiles(2)[:, :, 0].requires_grad_()
        natural = torch.cat((moved.detach()[:1] + 0.1, moved.detach()[1:] - 0.1, 1 - moved.detach()))
        natural_distance(moved, natural).sum().backward()
        assert (moved.grad[0] < 0).all()
        assert (moved.grad[1] > 0).all()

    def test_the_distance_is_scipys_kernel_density(self):
        rng = np.random.default_rng(0)
        natural, moved = 0.02 * rng.normal(size=(9, 2)), 0.02 * rng.normal(size=(4, 2))
        kernel = multivariate_normal(cov=stage3.LIKE_KERNEL * np.eye(2))
        density = np.stack([kernel.pdf(moved - tile) for tile in natural]).mean(0)
        expected = -stage3.LIKE_KERNEL * np.log(density / kernel.pdf(np.zeros(2)))
        got = natural_distance(*(torch.tensor(values, dtype=torch.float32) for values in (moved, natural)))
        np.testing.assert_allclose(got, expected, rtol=1e-3)

    def test_the_less_noise_keeps_to_its_law_the_more_resemblance_counts(self, breath, breath_game):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        lawless = [tile + 0.1 * rng.normal(size=(128, 1)).astype(np.float32) for tile in breath.arrays]
        game = AuditGame(SETTINGS, Tiles.of(lawless, SETTINGS), seed=0)
        assert 3 * breath_game.doubt < game.doubt < 3
        # And less the more what the critic says of sounds that the library does not have.
        lawful, lawless = ([bool(of._bare_bands(2, rng).any()) for _ in range(100)] for of in (breath_game, game))
        assert 0.2 < np.mean(lawful) < 0.6
        assert not any(lawless)

    def test_it_is_not_led_to_take_all_noise_for_something_else(self, project):
        """Few tiles, whose noise differs by 60 dB: from a start like this no law was found."""
        pairs = read_pairs(project.folder / "training_pairs.json")
        natural = stage3.load_tiles(pairs, stage3.split_files(pairs, 0)[0], "cpu")
        torch.manual_seed(4)
        GrainModel(pairs.settings)
        critic = AuditGame(pairs.settings, natural, seed=4).critic
        noise, law = critic(natural.levels, natural.fluctuations)
        amounts = critic.amount(law, noise)[:, 0].numpy()
        assert np.ptp(amounts) > 0.3
        assert np.corrcoef(amounts, natural.log2_grain)[0, 1] > 0.9

    def test_the_critics_do_not_ask_how_strong_a_pattern_is(self, breath, breath_game):
        model = GrainModel(SETTINGS)
        once = breath_game.play(model, breath, 8, np.random.default_rng(0))
        with torch.no_grad():
            model.scale *= 0.1
        weak = breath_game.play(model, breath, 8, np.random.default_rng(0))
        for name in ("texture", "smooth"):
            torch.testing.assert_close(weak[name].distance, once[name].distance)
            torch.testing.assert_close(weak[name].noise_distance, once[name].noise_distance)
            assert weak[name].violation > once[name].violation + 0.3  # the auditor does ask

    def test_held_energy_holds_it(self):
        x = tiles()
        y = held_energy(x, 0.2 * tiles(seed=3), SHARES.log(), RANGE_DB)
        level = torch.logsumexp(stage3.band_levels(y, RANGE_DB) + SHARES.log(), 1) - torch.logsumexp(
            stage3.band_levels(x, RANGE_DB) + SHARES.log(), 1
        )
        torch.testing.assert_close(
            level, level[:, :1].expand_as(level), atol=1e-3, rtol=1e-3
        )  # one shift for the whole tile
        torch.testing.assert_close(y.amax((1, 2)), x.amax((1, 2)))


class TestTraining:
    def test_reports_pictures_and_contract(self, project):
        ran = project.ran[2]
        assert ran.status == 0, ran.err
        output = project.folder / "grain_processor_v2_output"
        for name in ("final_grain_processor_v2.pt", "audit.json", "audit.png", "training_history.csv", "training_history.png",
                     "checkpoints/latest.pt", "checkpoints/epoch_0010.pt", "samples/epoch_0010.png"):  # fmt: skip
            assert (output / name).stat().st_size > 500, name
        assert "audit: the slider keeps its word within 0.05 octaves on 3 of 3 files" in ran.out
        assert "next: python neural_audio_processor.py" in ran.out

    def test_what_it_learned_holds_for_what_it_did_not_learn_from(self, project):
        with (project.folder / "grain_processor_v2_output/training_history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 10
        assert float(rows[-1]["held_out_violation"]) < 0.1
        pairs = read_pairs(project.folder / "training_pairs.json")
        train_on, judge_on = (stage3.load_tiles(pairs, part, "cpu") for part in stage3.split_files(pairs, 0))
        torch.manual_seed(0)
        untrained = GrainModel(pairs.settings)
        game = AuditGame(pairs.settings, train_on, seed=0)
        before = stage3.judge(game, untrained, judge_on, stage3.TrainSettings())
        assert float(rows[-1]["held_out_noise"]) < 0.8 * before["held_out_noise"]
        nearer = stage3.share_nearer(before, {name: float(rows[-1][name]) for name in before}, game.doubt)
        assert nearer > 0.2
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["nearer_than_expander_share"] == pytest.approx(nearer, abs=0.01)

    @pytest.mark.parametrize("critics", ["both", "noise alone"])
    def test_it_learns_where_a_library_gets_noisier(self, breath, breath_game, critics, monkeypatch):
        """A model of the breathy library moves tiles nearer to what they would be than the expander that it began as."""
        if critics == "noise alone":  # the other would teach much the same here
            monkeypatch.setattr(AuditGame, "_natural_distances", lambda *_: {})
        torch.manual_seed(0)
        model = GrainModel(SETTINGS)

        def distance() -> float:
            rng = np.random.default_rng(7)
            with torch.no_grad():
                moves = [breath_game.play(model, breath, 32, rng) for _ in range(4)]
            return sum(move.noise_distance.item() for both in moves for move in both.values())

        before = distance()
        optimizer = torch.optim.Adam(model.parameters(), stage3.LEARNING_RATE, betas=(0.9, 0.99))
        for epoch in range(1, 9):
            stage3.train_epoch(breath_game, model, optimizer, breath, epoch, stage3.TrainSettings(epochs=8))
        assert distance() < 0.5 * before

    @pytest.mark.parametrize(
        ("expander", "trained", "doubt", "nearer"),
        [
            ((6, 8), (3, 4), 1.0, 0.5),
            ((6, 8), (6, 4), 1.0, 1 - 52**0.5 / 10),
            ((6, 8), (12, 8), 0.0, -1.0),
            ((6, math.nan), (3, math.nan), 1.0, 0.5),
            ((math.nan, 8), (math.nan, 2), 1.0, 0.75),
            ((6, 8), (3, math.nan), 1.0, math.nan),
            ((math.nan, math.nan), (math.nan, math.nan), 1.0, math.nan),
        ],
    )
    def test_how_much_nearer_a_model_comes(self, expander, trained, doubt, nearer):
        names = ("held_out_noise", "held_out_distance")
        scores = (dict(zip(names, values, strict=True)) for values in (expander, trained))
        assert stage3.share_nearer(*scores, doubt) == pytest.approx(nearer, nan_ok=True)

    def test_held_out_tiles_are_judged_as_they_are(self, breath, breath_game, monkeypatch):
        """Not without their tones, and of one grain nothing can be said of the distance to others."""
        same = Tiles.of([breath.arrays[3]] * 4, SETTINGS)
        monkeypatch.setattr(stage3, "BARE_STEPS", 0.0)
        scores = stage3.judge(breath_game, GrainModel(SETTINGS), same, stage3.TrainSettings())
        monkeypatch.setattr(stage3, "BARE_STEPS", 10.0)
        assert stage3.judge(breath_game, GrainModel(SETTINGS), same, stage3.TrainSettings()) == pytest.approx(
            scores, nan_ok=True
        )
        assert math.isfinite(scores["held_out_noise"])
        assert math.isfinite(scores["held_out_violation"])

    def test_the_audit_reports_what_stage_1_measures(self, project):
        content = json.loads((project.folder / "grain_processor_v2_output/audit.json").read_text())
        assert content["summary"]["files_monotone"] == content["summary"]["files"] == 3
        for row in content["rows"]:
            if row["asked_octaves"] == 0:
                assert row["got_octaves"] == 0
            elif row["within_reach"]:
                assert row["got_octaves"] == pytest.approx(row["asked_octaves"], abs=0.02)

    @pytest.mark.parametrize(
        ("rows", "nearer", "verdict"),
        [
            ([("a", 1, 1.01), ("a", -1, -0.98), ("b", 2, 2.0)], 0.12,
             "the slider keeps its word within 0.05 octaves on 2 of 2 files; "
             "the learned pattern is 12% nearer than a plain expander's to what its referees expect here"),
            ([("a", 1, 1.01), ("a", -1, -0.8), ("b", 2, 2.0)], math.nan,
             "the slider keeps its word within 0.05 octaves on 1 of 2 files; the largest error is 0.200 octaves, "
             "see audit.png"),
            ([("a", 1, 1.0), ("a", 2, None), ("a", 3, None), ("b", 0, 0.0), ("b", 1, None)], -0.01,
             "the slider keeps its word within 0.05 octaves on 1 of 1 files; "
             "only 25% of positions are within reach: most of these files are as smooth or as grainy as can be; "
             "the learned pattern is no better than a plain expander's: train longer, or add recordings"),
            ([("a", 0, 0.0), ("a", 1, None)], math.nan,
             "no held-out file can be moved to where it was asked; "
             "only 0% of positions are within reach: most of these files are as smooth or as grainy as can be"),
            ([], math.nan, "no held-out file could be audited"),
        ],
    )  # fmt: skip
    def test_the_verdict_says_whether_the_model_is_good(self, rows, nearer, verdict):
        rows = [
            stage3.AuditRow(name, asked, 0.3 if got is None else got, got is not None, 0.0) for name, asked, got in rows
        ]
        summary = stage3.summarise_audit(rows, 0.02, nearer, n_files=100, spread_octaves=6.0)
        assert summary["verdict"] == verdict
        assert (summary["within_reach_share"] is None) == (summary["loudness_change_max_db"] is None) == (not rows)
        has_errors = any(row.within_reach and row.asked_octaves for row in rows)
        assert (summary["error_median_octaves"] is None) == (summary["error_95th_octaves"] is None) == (not has_errors)
        assert (summary["nearer_than_expander_share"] is None) == math.isnan(nearer)

    def test_files_of_one_name_in_two_folders_are_two_files(self, project, tmp_path):
        for i, path in enumerate(sorted(write_library(tmp_path, 8, 1.0).rglob("*.wav"))):
            (tmp_path / f"Drone/{i}").mkdir()
            path.rename(tmp_path / f"Drone/{i}/take.wav")
        for script, *args in (["measure_audio_grain.py"], ["convert_to_spectrograms.py", "--no-images"]):
            run(script, *args, cwd=tmp_path)
        pairs, model = read_pairs(tmp_path / "training_pairs.json"), load_model(project.model).model
        rows, summary, failures = stage3.audit(pairs, model, 0.02, 0.1, 0, tmp_path)
        assert failures == []
        assert summary["files"] == 2
        assert len(rows) == 14
        assert len({row.file for row in rows}) == 2
        assert all((tmp_path / row.file).is_file() for row in rows)

    def test_without_the_recordings_it_learns_and_says_that_none_could_be_audited(self, copied):
        for path in copied.folder.rglob("*.wav"):
            path.unlink()
        ran = run("cak_grain_processor.py", "--epochs", "1", "--device", "cpu", cwd=copied.folder)
        assert ran.status == 1
        assert ran.err.count("warning: not audited") == 3
        assert "audit: no held-out file could be audited" in ran.out

    def test_the_model_is_small_safe_and_says_where_it_comes_from(self, project):
        assert project.model.stat().st_size < 1e6
        content = torch.load(project.model, weights_only=True)
        assert "optimizer" not in content
        assert content["training"]["files"] == 12
        assert content["training"]["seed"] == 0
        assert "the slider keeps its word" in content["audit"]["verdict"]
        loaded = load_model(project.model)
        assert loaded.settings == SETTINGS

    def test_same_seed_same_weights_and_resume_ends_with_the_same(self, project, tmp_path):
        pairs = project.folder / "training_pairs.json"

        def weights(folder):
            return torch.load(folder / "checkpoints/latest.pt", weights_only=True)["weights"]

        args = ("--pairs", pairs, "--epochs", 4, "--device", "cpu")
        assert run("cak_grain_processor.py", *args, "--output-dir", "whole", cwd=tmp_path).status == 0
        killed = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", *map(str, args), "--output-dir", "broken"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        latest = tmp_path / "broken/checkpoints/latest.pt"
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        done = len(torch.load(latest, weights_only=True)["history"])
        assert 1 <= done < 4
        assert run("cak_grain_processor.py", *args, "--output-dir", "broken", "--resume", cwd=tmp_path).status == 0
        whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
        assert all(torch.equal(whole[name], broken[name]) for name in whole)

    def test_what_can_not_be_gone_on_with_is_refused_before_anything_is_learned(self, project, monkeypatch):
        monkeypatch.setattr(stage3, "AuditGame", lambda *_: pytest.fail("it learned"))
        pairs, output_dir = read_pairs(project.folder / "training_pairs.json"), project.model.parent
        with pytest.raises(PipelineError, match="was made from other tiles or options; leave out --resume"):
            stage3.train(pairs, stage3.TrainSettings(epochs=11), output_dir, resume=True)

    def test_ctrl_c_ends_the_step_and_writes_what_it_did(self, project, tmp_path):
        latest = tmp_path / "grain_processor_v2_output/checkpoints/latest.pt"
        running = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", "--pairs", project.folder / "training_pairs.json", "--device", "cpu"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)  # the next epoch begins at once, and has sixteen steps
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert "interrupted; go on with --resume" in err
        content = read_checkpoint(latest)
        assert len(content["history"]) >= 1
        assert content["begun"] is None or 1 <= content["begun"]["step"] <= 16

    def test_interrupted_before_its_first_step_it_does_not_offer_an_earlier_runs_checkpoint(self, copied):
        running = subprocess.Popen(
            [sys.executable, ROOT / "cak_grain_processor.py", "--device", "cpu"],
            cwd=copied.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in running.stderr:
            if line.startswith("training on"):
                break
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "interrupted before the first step ended; start again" in err
        assert len(read_checkpoint(copied.folder / "grain_processor_v2_output/checkpoints/latest.pt")["history"]) == 10

    @pytest.mark.usefixtures("brief_critic")
    def test_stopped_after_any_step_it_goes_on_to_the_same_weights(self, project, tmp_path, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        settings = stage3.TrainSettings(epochs=2)
        for name in ("whole", "broken"):
            for part in ("checkpoints", "samples"):
                (tmp_path / name / part).mkdir(parents=True)
        whole, *_ = stage3.train(pairs, settings, tmp_path / "whole")
        steps = itertools.count(1)
        stop = contextlib.nullcontext(lambda: next(steps) == 22)  # the fifth step of the second epoch
        with monkeypatch.context() as patch:
            patch.setattr(stage3, "stop_after_step", lambda: stop)
            with pytest.raises(KeyboardInterrupt):
                stage3.train(pairs, settings, tmp_path / "broken")
        content = read_checkpoint(tmp_path / "broken/checkpoints/latest.pt")
        assert (len(content["history"]), content["begun"]["step"]) == (1, 5)
        resumed, history, _ = stage3.train(pairs, settings, tmp_path / "broken", resume=True)
        assert len(history) == 2
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))

    def test_killed_between_its_last_checkpoint_and_the_pictures_it_draws_them_when_it_goes_on(self, copied):
        output_dir = copied.folder / "grain_processor_v2_output"
        drawn = [
            *output_dir.glob("checkpoints/epoch_*.pt"),
            *output_dir.glob("samples/*"),
            *output_dir.glob("*history*"),
        ]
        before = {path: path.read_bytes() for path in drawn}
        assert len(before) == 4
        for path in drawn:
            path.unlink()
        pairs = read_pairs(copied.folder / "training_pairs.json")
        stage3.train(pairs, stage3.TrainSettings(epochs=10), output_dir, resume=True)
        assert before == {path: path.read_bytes() for path in drawn}

    def test_tiles_that_are_mapped_from_disk_train_the_same(self, project, tmp_path, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        in_memory = stage3.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        monkeypatch.setattr(stage3, "MEMORY_BYTES", 0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/dev/fd"))) + 6
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))  # fewer than there are tiles
        try:
            mapped = stage3.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(mapped.arrays) > 6
        assert isinstance(mapped.arrays[0], np.memmap)
        for a, b in zip(
            in_memory.crops(8, np.random.default_rng(0)), mapped.crops(8, np.random.default_rng(0)), strict=True
        ):
            assert torch.equal(a, b)
        mapped.arrays.paths[0] = tmp_path / "gone.npy"
        with pytest.raises(PipelineError, match="no longer there"):
            mapped.arrays[0]

    @pytest.mark.usefixtures("brief_critic")
    def test_silence_inside_a_tile_is_no_hindrance(self, tmp_path):
        """A crop of digital silence has a pattern of exactly 0 at first, and a root of 0 no gradient."""
        for i, path in enumerate(sorted(write_library(tmp_path).rglob("*.wav"))):
            if i % 2:
                y, sr = sf.read(path)
                y[: sr * 3 // 2] = 0
                sf.write(path, y, sr, "PCM_16")
        for script, *args in (["measure_audio_grain.py"], ["convert_to_spectrograms.py", "--no-images"]):
            run(script, *args, cwd=tmp_path)
        for name in ("checkpoints", "samples"):
            (tmp_path / name).mkdir()
        model, *_ = stage3.train(read_pairs(tmp_path / "training_pairs.json"), stage3.TrainSettings(epochs=1), tmp_path)
        assert all(torch.isfinite(weight).all() for weight in model.parameters())

    @pytest.mark.usefixtures("brief_critic")
    def test_every_epoch_draws_other_pairs(self, project, monkeypatch):
        pairs = read_pairs(project.folder / "training_pairs.json")
        movers = stage3.load_tiles(pairs, range(len(pairs.sources)), "cpu")
        monkeypatch.setattr(stage3, "learning_rate_at", lambda progress: 0.0)
        monkeypatch.setattr(stage3, "GATE_TEMPERATURES", (2.0, 2.0))
        model, game = GrainModel(SETTINGS), stage3.AuditGame(pairs.settings, movers, seed=0)
        optimizer = torch.optim.Adam(model.parameters())
        first, second, again = (
            stage3.train_epoch(game, model, optimizer, movers, epoch, stage3.TrainSettings()) for epoch in (1, 2, 1)
        )
        assert first == again
        assert first["violation_texture"] != second["violation_texture"]

    @pytest.mark.usefixtures("brief_critic")
    @pytest.mark.parametrize(("what", "epoch"), [("loss", 1), ("loss", 2), ("gradient", 2)])
    def test_what_is_not_finite_stops_the_training(self, project, monkeypatch, tmp_path, what, epoch):
        for name in ("checkpoints", "samples"):
            (tmp_path / name).mkdir()
        latest = tmp_path / "checkpoints/latest.pt"
        game_of = AuditGame.play

        def play(game, model, *args, **options):
            moves = game_of(game, model, *args, **options)
            if torch.is_grad_enabled() and latest.exists() == (epoch == 2):
                bad = model.scale * math.inf if what == "loss" else (model.scale - model.scale.detach()).sqrt()
                move = moves["smooth"]
                moves["smooth"] = stage3.Moves(
                    move.distance, move.noise_distance, move.noise_told, move.violation + bad
                )
            return moves

        monkeypatch.setattr(AuditGame, "play", play)
        good = latest if epoch == 2 else "none"
        with pytest.raises(PipelineError) as caught:
            stage3.train(read_pairs(project.folder / "training_pairs.json"), stage3.TrainSettings(epochs=3), tmp_path)
        assert str(caught.value) == f"epoch {epoch}: the {what} is not finite; the last good checkpoint is {good}"
        if epoch == 2:
            assert len(read_checkpoint(latest)["history"]) == 1

    def test_a_gradient_that_a_device_computes_wrong_is_named(self, breath):
        torch.manual_seed(0)
        good = stage3.gradients_on("cpu", GrainModel(SETTINGS), *breath.crops(4, np.random.default_rng(0)))
        assert all(gradient.norm() > 0 for name, gradient in good.items() if name != "detector.mix.bias"), good
        rounded = {name: gradient * (1 + 1e-4 * torch.randn_like(gradient)) for name, gradient in good.items()}
        assert stage3.wrong_gradients(good, rounded) == []
        for name in ("detector.layers.0.weight", "detector.direct.weight", "detector.layers.2.bias"):
            for wrong in (torch.zeros_like(good[name]), -good[name], good[name] * math.nan):
                assert stage3.wrong_gradients(good, {**good, name: wrong}) == [name]


@pytest.fixture
def machines(project, tmp_path):
    """Two folders with the same tiles, for two processes that share nothing else, and how to start them."""
    for name in ("0", "1"):
        shutil.copytree(
            project.folder, tmp_path / name, ignore=shutil.ignore_patterns("grain_processor_v2_output", "images")
        )

    def start(*args):
        script = [
            "--no-python",
            "sh",
            "-c",
            'cd "$RANK"; exec "$@"',
            "sh",
            sys.executable,
            ROOT / "cak_grain_processor.py",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             *script, "--device", "cpu", "--epochs", "2", "--batch-size", "8", *args],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return tmp_path, start


class TestSeveralProcesses:
    def test_interrupted_and_resumed_they_come_to_what_one_comes_to(self, project, machines, tmp_path):
        folder, start = machines
        latest = folder / "0/grain_processor_v2_output/checkpoints/latest.pt"
        running = start()
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert err.count("interrupted; go on with --resume") == 1
        assert "error:" not in err
        assert out == ""
        out, err = start("--resume").communicate(timeout=120)
        assert out.count("audit: ") == out.count("next: ") == 1, err
        assert not (folder / "1/grain_processor_v2_output").exists()

        for part in ("checkpoints", "samples"):
            (tmp_path / "alone" / part).mkdir(parents=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as torchrun has it: with more, the critic is rounded otherwise
        try:
            alone, history, _ = stage3.train(
                read_pairs(project.folder / "training_pairs.json"),
                stage3.TrainSettings(2, batch_size=8),
                tmp_path / "alone",
            )
        finally:
            torch.set_num_threads(threads)
        together = load_model(folder / "0/grain_processor_v2_output" / stage3.FINAL_NAME).model
        for model in (alone, together):  # these shift all bands alike, which D takes away: their gradient is rounding
            model.detector.mix.bias.data.zero_()
            model.detector.direct.weight.data[:, 2] = 0
            model.scale.data.fill_(1)  # claims are met to within rounding here, and its gradient is which side of them
        for name, weights in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name], weights, atol=1e-3, rtol=1e-3, msg=name)
        with (folder / "0/grain_processor_v2_output/training_history.csv").open() as file:
            for row, wanted in zip(csv.DictReader(file), history, strict=True):
                for name, value in vars(wanted).items():
                    assert name == "seconds" or float(row[name]) == pytest.approx(
                        value, rel=1e-3, abs=1e-5, nan_ok=True
                    ), name

    def test_a_fault_in_one_is_one_line(self, machines):
        folder, start = machines
        next((folder / "1/spectrograms/arrays").glob("*.npy")).unlink()
        running = start()
        out, err = running.communicate(timeout=120)
        assert running.returncode != 0
        assert out == ""
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, err
        assert "not readable as a tile" in errors[0]
        assert not list((folder / "0/grain_processor_v2_output").rglob("*.pt"))


class TestErrors:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("missing pairs", "training_pairs.json: no such file; make it with: python convert_to_spectrograms.py"),
            ("damaged pairs", "training_pairs.json: not readable as JSON"),
            ("pairs of another depth", "tiles are 80 dB deep, this version learns from 100: make them again with"),
            ("missing array", "not readable as a tile"),
            ("truncated array", "not readable as a tile"),
            ("pickled array", "not readable as a tile"),
            ("array of another shape", "is no tile of 128 x 256 float32"),
            ("array with NaN", "holds values outside 0 to 1"),
            ("a tile for one way only", "--batch-size 1: must be 2 or more"),
            ("nothing to resume", "no model there"),
        ],
    )
    def test_are_one_line_before_any_training(self, copied, damage, message):
        pairs = copied.folder / "training_pairs.json"
        array = sorted((copied.folder / "spectrograms/arrays").glob("*.npy"))[0]
        args = ()
        if damage == "missing pairs":
            pairs.unlink()
        elif damage == "damaged pairs":
            pairs.write_text(pairs.read_text()[:500])
        elif damage == "pairs of another depth":
            pairs.write_text(pairs.read_text().replace('"dynamic_range_db": 100.0', '"dynamic_range_db": 80.0'))
        elif damage == "missing array":
            array.unlink()
        elif damage == "truncated array":
            os.truncate(array, 1000)
        elif damage == "pickled array":
            np.save(array, np.array([{}], dtype=object), allow_pickle=True)
        elif damage == "array of another shape":
            np.save(array, np.zeros((64, 256), np.float32))
        elif damage == "array with NaN":
            np.save(array, np.full((128, 256), np.nan, np.float32))
        elif damage == "a tile for one way only":
            args = ("--batch-size", "1")
        else:
            (copied.folder / "grain_processor_v2_output/checkpoints/latest.pt").unlink()
            args = ("--resume",)
        output = copied.folder / "grain_processor_v2_output"
        before = {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()}
        ran = run("cak_grain_processor.py", *args, cwd=copied.folder)
        assert ran.status == 2
        errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert message in errors[0]
        assert {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("n_files", "message"), [(3, "3 files: a model needs at least 4"), (5, "all tiles are of one grain")]
    )
    def test_a_library_with_nothing_to_learn_from(self, tmp_path, n_files, message):
        write_library(tmp_path, n_files, 0.5)
        if n_files == 5:
            first = next(tmp_path.rglob("*.wav")).read_bytes()
            for path in tmp_path.rglob("*.wav"):
                path.write_bytes(first)
        run("measure_audio_grain.py", cwd=tmp_path)
        run("convert_to_spectrograms.py", "--no-images", cwd=tmp_path)
        ran = run("cak_grain_processor.py", cwd=tmp_path)
        assert ran.status == 2
        assert message in ran.err

    def test_no_code_from_a_checkpoint_ever_runs(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "hacked"),))

        (tmp_path / "model.pt").write_bytes(pickle.dumps(Malicious()))
        torch.save({"version": 1, "weights": Malicious()}, tmp_path / "zipped.pt")
        for name in ("model.pt", "zipped.pt"):
            with pytest.raises(PipelineError, match="not readable as a model"):
                read_checkpoint(tmp_path / name)
        assert not (tmp_path / "hacked").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 99}, f"is no model of version {stage3.CHECKPOINT_VERSION}"),
            ({"channels": 9}, "weights do not fit"),
            ({"channels": "many"}, "field channels is 'many'"),
            ({"weights": {}}, "weights do not fit"),
            ({"settings": {}}, "settings: grain: is a NoneType, not an object"),
        ],
    )
    def test_a_model_that_does_not_fit_is_refused(self, project, tmp_path, change, message):
        content = torch.load(project.model, weights_only=True)
        torch.save({**content, **change}, tmp_path / "m.pt")
        with pytest.raises(PipelineError) as caught:
            load_model(tmp_path / "m.pt")
        assert message in str(caught.value)

    def test_weights_that_are_not_finite_are_refused(self, project, tmp_path):
        content = torch.load(project.model, weights_only=True)
        content["weights"]["scale"] = torch.tensor(math.nan)
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(PipelineError, match="weights are not finite"):
            load_model(tmp_path / "m.pt")
