"""TODO"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from conftest import SR, FakeDevice, drone

from neural_grain.app.mixer import Mixer
from neural_grain.app.player import Player
from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import sound_from_array


@pytest.fixture(scope="module")
def processor(project) -> GrainProcessor:
    return GrainProcessor.load(project.model, "cpu")


class TestMixer:
    """What is heard, block by block, without a device and without a clock."""

    BLOCK = 300

    @pytest.fixture
    def solver(self, processor):
        y = np.stack([drone(-45, 3.0), drone(-40, 3.0, seed=1)], axis=1).astype(np.float32)
        return processor.solver(sound_from_array(y, SR))

    @pytest.fixture
    def mixer(self, solver):
        y = np.concatenate(list(solver.analysis.sound.blocks()))
        return Mixer(y, SR, solver)

    def hear(self, mixer, n_blocks, each=lambda i: None) -> np.ndarray:
        heard = []
        for i in range(n_blocks):
            each(i)
            while mixer.prepare():
                pass
            block = np.zeros((self.BLOCK, 2), np.float32)
            mixer.fill(block)
            heard.append(block)
        return np.concatenate(heard)

    @pytest.mark.parametrize("which", ["before", "after", "difference"])
    def test_what_is_heard_is_what_is_rendered(self, mixer, solver, which):
        amounts = solver.about(-1.5)
        mixer.want(amounts)
        mixer.listen(which)
        mixer.play()
        heard = self.hear(mixer, 100)
        after = np.concatenate(list(solver.render(amounts)))[: len(heard)]
        before = mixer.y[: len(heard)]
        expected = {"before": before, "after": after, "difference": after - before}[which]
        fade = mixer._fade_samples
        np.testing.assert_allclose(heard[fade:], expected[fade:], atol=3e-6)
        assert mixer.underruns == 0

    def test_at_zero_after_is_before_to_the_bit(self, mixer):
        mixer.play()
        heard = self.hear(mixer, 50)
        fade = mixer._fade_samples
        np.testing.assert_array_equal(heard[fade:], mixer.y[fade : len(heard)])

    def steepest(self, y: np.ndarray) -> float:
        return float(np.abs(np.diff(y, axis=0)).max())

    def test_switching_and_sliding_make_no_step(self, mixer, solver):
        mixer.want(solver.about(-1.5))
        mixer.play()
        self.hear(mixer, 5)
        rng = np.random.default_rng(0)

        def disturb(i: int) -> None:
            if i % 3 == 0:
                mixer.listen(("before", "after")[i // 3 % 2])
            mixer.want(solver.about(float(rng.uniform(-1.5, 1.5)) or 1.0))

        heard = self.hear(mixer, 150, disturb)
        natural = max(self.steepest(np.concatenate(list(solver.render(solver.about(s))))) for s in (-1.5, 1.5))
        fade_slope = 2 * np.abs(heard).max() / mixer._fade_samples
        assert self.steepest(heard) < natural + fade_slope
        assert mixer.underruns == 0

    def test_each_move_is_heard_as_it_is_rendered_and_joined_by_a_straight_fade(self, mixer, solver):
        moves = [solver.about(octaves) for octaves in (-1.5, 0.7, 2.0, -0.4)]
        mixer.play()

        def disturb(i: int) -> None:
            mixer.want(moves[i // 20])
            mixer.listen("before" if i // 10 % 2 else "after")

        heard = self.hear(mixer, 80, disturb)
        after = [np.concatenate(list(solver.render(amounts))) for amounts in moves]
        old, fade = np.zeros_like(mixer.y), mixer._fade_samples
        rise = (np.arange(1, fade + 1) / fade)[:, None]
        for turn in range(8):
            new = mixer.y if turn % 2 else after[turn // 2]
            start, stop = 10 * turn * self.BLOCK, 10 * (turn + 1) * self.BLOCK
            expected = new[start:stop].copy()
            expected[:fade] = rise * expected[:fade] + (1 - rise) * old[start : start + fade]
            np.testing.assert_allclose(heard[start:stop], expected, atol=3e-6)
            old = new
        assert mixer.underruns == 0

    def test_moves_that_come_faster_than_they_are_rendered_never_leave_it_without_samples(self, mixer, solver):
        moves = [solver.about(1.0 + i / 100) for i in range(101)]
        mixer.want(moves[0])
        mixer.play()
        self.hear(mixer, 2)
        heard = []
        for i in range(100):
            mixer.want(moves[i])
            mixer.prepare()
            mixer.want(moves[i + 1])  # already another when the block is due
            mixer.fill(np.zeros((self.BLOCK, 2), np.float32))
            heard.append(mixer._heard.amounts)
        assert mixer.underruns == 0
        assert heard[-1] in moves[-4:]

    def test_a_loop_is_exact_and_its_join_fades(self, mixer, solver):
        start, stop = 20_000, 31_111
        mixer.want(solver.about(1.0))
        mixer.loop((start, stop))
        mixer.seek(start)
        mixer.play()
        heard = self.hear(mixer, 120)
        after = np.concatenate(list(solver.render(solver.about(1.0))))
        fade, length = mixer._fade_samples, stop - start
        for turn in range(3):
            part = heard[turn * length + fade : (turn + 1) * length]
            np.testing.assert_allclose(part, after[start + fade : stop], atol=3e-6)
        assert mixer.underruns == 0

    def test_seeking_while_it_plays_goes_there_with_a_fade(self, mixer, solver):
        mixer.want(solver.about(-1.0))
        mixer.play()
        self.hear(mixer, 10)
        mixer.seek(80_000)
        heard = self.hear(mixer, 20)
        after = np.concatenate(list(solver.render(solver.about(-1.0))))
        fade = mixer._fade_samples
        np.testing.assert_allclose(heard[fade:], after[80_000 + fade : 80_000 + len(heard)], atol=3e-6)

    def test_it_ends_at_the_end_and_starts_anew(self, mixer):
        mixer.seek(len(mixer.y) - 1000)
        mixer.play()
        heard = self.hear(mixer, 10)
        assert not mixer.is_playing
        assert np.abs(heard[2000:]).max() == 0
        mixer.play()
        self.hear(mixer, 2)
        assert mixer.position == 2 * self.BLOCK

    def test_pausing_fades_to_silence(self, mixer):
        mixer.play()
        self.hear(mixer, 5)
        mixer.pause()
        heard = self.hear(mixer, 5)
        assert mixer.is_silent
        assert np.abs(heard[mixer._fade_samples :]).max() == 0
        assert self.steepest(heard) < self.steepest(mixer.y) + 2 / mixer._fade_samples

    def test_a_stream_in_real_time_never_waits_while_the_slider_moves(self, mixer, solver):
        device = FakeDevice()
        player = Player(device)
        mixer.loop((0, len(mixer.y) - 1))
        mixer.want(solver.about(1.0))
        assert player.play(mixer) == ""
        until = time.monotonic() + 5
        i = 0
        while time.monotonic() < until:
            i += 1
            mixer.want(solver.about(2.5 * math.sin(i / 20) or 0.1))
            time.sleep(0.016)
        player.close()
        heard = np.concatenate(device.streams[0].heard)
        assert len(heard) > 4 * SR
        assert mixer.underruns == 0
        assert device.streams[0].closed
        loud = np.sqrt(np.mean(heard[SR // 10 : -SR // 10].reshape(-1, 2) ** 2))
        assert loud == pytest.approx(np.sqrt(np.mean(mixer.y**2)), rel=0.2)
        assert self.steepest(heard) < 3 * self.steepest(mixer.y) + 2 / mixer._fade_samples
