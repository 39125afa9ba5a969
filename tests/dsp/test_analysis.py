"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SR, noise
from rendering import SETTINGS, rendered, solver_of

from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.analysis import analyse, onsets
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.resynthesis import minimum_phase


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
        gain_db = zero_phase.field.gain_db(zero_phase.reach(1.0).amounts_at(zero_phase.solve(octaves)))
        assert np.abs(rendered(y[:, None], SR, gain_db)[SR - 882 : SR - 22]).max() > 4 * before  # it was needed
