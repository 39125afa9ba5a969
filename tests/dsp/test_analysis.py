"""The analysis of a sound: its grain, its probe, and its onsets and what they are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import SR, drone, noise
from rendering import SETTINGS, rendered, samples_of, solver_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp import analysis
from neural_grain.dsp.analysis import analyse, bands_and_grain, onsets
from neural_grain.dsp.flatness import measure_grain, power_blocks
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.resynthesis import minimum_phase

PADDING_FRAMES = 3  # frames before the first that is measured: n_fft / hop_length - 1


def test_the_grain_is_that_of_stage_1():
    sound = sound_from_array(np.concatenate([drone(-40), drone(-20, 1.0)]), SR)
    assert analyse(sound, SETTINGS).grain == measure_grain(sound)
    stage_2 = bands_and_grain(sound, SETTINGS)
    assert stage_2.flatness[stage_2.active].mean(dtype=np.float64) == measure_grain(sound)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"probe_frames": 50, "max_kept_frames": 128, "min_probe_frames": 10},  # every fourth frame is kept
        {"probe_frames": 50, "max_kept_frames": 8, "min_probe_frames": 40},  # too few are kept, so it is read once more
    ],
)
def test_the_probe_holds_the_powers_of_active_frames(monkeypatch, changed):
    monkeypatch.setattr(analysis, "ANALYSIS", replace(analysis.ANALYSIS, **changed))
    sound = sound_from_array(np.concatenate([np.zeros(2 * SR), drone(-40, 2.0), np.zeros(SR)]), SR)
    probe = analyse(sound, SETTINGS).probe
    powers = np.concatenate([block.bins for block in power_blocks(sound, SETTINGS.grain)])
    frames = probe.index - PADDING_FRAMES
    assert 30 <= len(frames) <= analysis.ANALYSIS.probe_frames
    assert np.all(np.diff(frames) > 0)
    assert bands_and_grain(sound, SETTINGS).active[frames].all()
    np.testing.assert_allclose(probe.power, powers[frames], rtol=1e-6)


class TestOnsets:
    def test_minimum_phase_equals_that_of_a_one_pole_filter(self):
        z = np.exp(-2j * np.pi * np.arange(1025) / 2048)
        response = 0.1 / (1 - 0.9 * z)
        np.testing.assert_allclose(minimum_phase(np.log(np.abs(response))[None])[0], np.angle(response), atol=1e-4)

    def test_a_click_is_an_onset_and_steady_noise_is_not(self):
        y = noise(2, level=0.01)
        y[SR] += 1.0
        onset = analyse(sound_from_array(y, SR), SETTINGS).onset
        frames = np.flatnonzero(onset > 0)
        frames = frames[(frames > 8) & (frames < len(onset) - 8)]  # the start and the end of the noise are left out
        last = (SR + 1536) // 512  # the last frame that holds the click, behind 1536 samples of padding
        assert len(frames) >= 2
        assert frames.min() >= last - 3
        assert frames.max() <= last
        assert onsets(np.full((128, 50), 0.5, np.float32), 80.0, 4)[4:].max() == 0

    @pytest.mark.parametrize("octaves", [1.0, 3.0])
    def test_almost_nothing_precedes_a_click_in_silence(self, octaves):
        y = np.zeros(2 * SR)
        y[SR] = 0.7
        before = slice(SR - 882, SR - 22)  # 20 ms to 0.5 ms before the click
        pre_echo = np.abs(samples_of(move_grain(solver_of(y), octaves).sound)[before]).max()
        assert pre_echo < 0.7 * 10 ** (-50 / 20)
        # The same gains without the minimum phase at onsets give four times as much.
        solver = solver_of(y)
        gain_db = solver.field.gain_db(solver.reach(1.0).amounts_at(solver.solve(octaves)))
        assert np.abs(rendered(y[:, None], SR, gain_db)[before]).max() > 4 * pre_echo
