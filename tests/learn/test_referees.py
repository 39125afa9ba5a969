"""TODO"""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from learning import RANGE_DB, SETTINGS, SHARES, breathy, changed, tiles
from scipy.stats import multivariate_normal

from neural_grain.audio.sound import sound_from_array
from neural_grain.data.tiles import read_pairs
from neural_grain.dsp import settings as dsp_settings
from neural_grain.dsp.mel import band_powers_of, log_mel_of
from neural_grain.learn import auditor as learn_auditor
from neural_grain.learn import dataset as learn_dataset
from neural_grain.learn import game as learn_game
from neural_grain.learn import modulation as learn_modulation
from neural_grain.learn import noise_law as learn_noise_law
from neural_grain.learn.auditor import audited_octaves, renormalise
from neural_grain.learn.dataset import Tiles
from neural_grain.learn.game import AuditGame, natural_distance
from neural_grain.learn.model import GrainModel


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
            spectra = learn_modulation.modulation_beside_noise(
                picture(y), learn_modulation.noise_modulation(SETTINGS), RANGE_DB
            )
            return learn_modulation.band_fluctuation(spectra.mean(2))[0]

        def share(y):
            return learn_modulation.noise_share(fluctuation(y), torch.ones(128))

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
            spectra = learn_modulation.modulation_beside_noise(
                picture, learn_modulation.noise_modulation(SETTINGS), RANGE_DB
            )
            return learn_modulation.band_fluctuation(spectra.mean(2))

        library = torch.cat([fluctuation(tone + level * clicks()) for level in np.geomspace(0.1, 30, 24)])
        full = learn_modulation.full_fluctuation(library)
        hiss = torch.cat([fluctuation(level * rng.standard_normal(n) + tone) for level in np.geomspace(0.1, 30, 24)])
        assert learn_modulation.full_fluctuation(hiss).max() < 1.25
        for level in (0.7, 2, 6):
            y = clicks()
            powers = [
                band_powers_of(sound_from_array(np.float32(z), sr), SETTINGS)[:, band].mean() for z in (tone, level * y)
            ]
            expected = powers[1] / sum(powers)
            got, as_noise = (
                10 * math.log10(learn_modulation.noise_share(fluctuation(tone + level * y)[0], of)[band] / expected)
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
        critic, found = learn_noise_law.NaturalNoise(SETTINGS), []
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
        critic, level = learn_noise_law.NaturalNoise(SETTINGS), torch.full((1, 128), 0.8)
        law = (
            *(torch.zeros(1, 1) for _ in range(3)),
            torch.full((1, 1), spread_db / RANGE_DB),
            torch.full((1, 1), -4.0),
        )
        share = 10 ** (measured_db / 10)
        found = critic.share(law, level + likely_db / RANGE_DB, level, torch.full((1, 1), share * (2 - share)))
        assert found_db[0] <= 10 * math.log10(found[0, 0].item()) <= found_db[1]

    def test_the_solved_amount_has_the_grain_claimed(self, breath_game):
        x = 0.3 + 0.7 * tiles(4, dsp_settings.CELL_FRAMES) ** 4
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
        kernel = multivariate_normal(cov=learn_game.LIKE_KERNEL * np.eye(2))
        density = np.stack([kernel.pdf(moved - tile) for tile in natural]).mean(0)
        expected = -learn_game.LIKE_KERNEL * np.log(density / kernel.pdf(np.zeros(2)))
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
        natural = learn_dataset.load_tiles(pairs, learn_dataset.split_files(pairs, 0)[0], "cpu")
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
        y = renormalise(x, 0.2 * tiles(seed=3), SHARES.log(), RANGE_DB)
        level = torch.logsumexp(learn_auditor.band_levels(y, RANGE_DB) + SHARES.log(), 1) - torch.logsumexp(
            learn_auditor.band_levels(x, RANGE_DB) + SHARES.log(), 1
        )
        torch.testing.assert_close(
            level, level[:, :1].expand_as(level), atol=1e-3, rtol=1e-3
        )  # one shift for the whole tile
        torch.testing.assert_close(y.amax((1, 2)), x.amax((1, 2)))
