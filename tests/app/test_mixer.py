"""The mixer block by block, without a device or a clock, and the player in real time with a fake device.

The oracle is the renderer itself: what is played must be the rendered sound, joined by linear fades.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from conftest import SR, FakeDevice, drone

from neural_grain.app.mixer import Mixer
from neural_grain.app.player import Player
from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.solver import AmountSolver

BLOCK = 300
TOLERANCE = 3e-6  # between rendering a part and rendering the whole


@pytest.fixture(scope="module")
def solver(project) -> AmountSolver:
    y = np.stack([drone(-45, 3.0), drone(-40, 3.0, seed=1)], axis=1).astype(np.float32)
    return GrainProcessor.load(project.model, "cpu").solver(sound_from_array(y, SR))


@pytest.fixture
def mixer(solver) -> Mixer:
    y = np.concatenate(list(solver.analysis.sound.blocks()))
    return Mixer(y, SR, solver)


def rendered(solver: AmountSolver, amounts: Amounts) -> np.ndarray:
    """The whole sound "after"."""
    return np.concatenate(list(solver.field.render(amounts)))


def play_blocks(mixer: Mixer, n_blocks: int, before_block: Callable[[int], None] = lambda i: None) -> np.ndarray:
    """What is played in some blocks, each of which is prepared in time."""
    played = []
    for i in range(n_blocks):
        before_block(i)
        while mixer.prepare():
            pass
        block = np.zeros((BLOCK, 2), np.float32)
        mixer.fill(block)
        played.append(block)
    return np.concatenate(played)


def largest_step(y: np.ndarray) -> float:
    """Largest difference between neighbouring samples."""
    return float(np.abs(np.diff(y, axis=0)).max())


@pytest.mark.parametrize("version", ["before", "after", "difference"])
def test_what_is_played_is_what_is_rendered(mixer, solver, version):
    amounts = solver.estimate(-1.5)
    mixer.set_amounts(amounts)
    mixer.listen(version)
    mixer.play()
    played = play_blocks(mixer, 100)
    after, before = rendered(solver, amounts)[: len(played)], mixer.y[: len(played)]
    expected = {"before": before, "after": after, "difference": after - before}[version]
    fade = mixer.fade_samples
    np.testing.assert_allclose(played[fade:], expected[fade:], atol=TOLERANCE)
    assert mixer.underruns == 0


def test_an_unknown_version_is_refused(mixer):
    with pytest.raises(ValueError, match="version='louder'"):
        mixer.listen("louder")


def test_without_amounts_after_equals_before_bit_for_bit(mixer):
    mixer.play()
    played = play_blocks(mixer, 50)
    fade = mixer.fade_samples
    np.testing.assert_array_equal(played[fade:], mixer.y[fade : len(played)])


def test_switching_and_moving_the_slider_make_no_click(mixer, solver):
    mixer.set_amounts(solver.estimate(-1.5))
    mixer.play()
    play_blocks(mixer, 5)
    rng = np.random.default_rng(0)

    def change(i: int) -> None:
        if i % 3 == 0:
            mixer.listen(("before", "after")[i // 3 % 2])
        mixer.set_amounts(solver.estimate(float(rng.uniform(-1.5, 1.5)) or 1.0))

    played = play_blocks(mixer, 150, change)
    step_of_sound = max(largest_step(rendered(solver, solver.estimate(octaves))) for octaves in (-1.5, 1.5))
    step_of_fade = 2 * np.abs(played).max() / mixer.fade_samples
    assert largest_step(played) < step_of_sound + step_of_fade
    assert mixer.underruns == 0


def test_each_change_is_played_as_it_is_rendered_after_a_linear_fade(mixer, solver):
    amounts = [solver.estimate(octaves) for octaves in (-1.5, 0.7, 2.0, -0.4)]
    mixer.play()

    def change(i: int) -> None:
        mixer.set_amounts(amounts[i // 20])
        mixer.listen("before" if i // 10 % 2 else "after")

    played = play_blocks(mixer, 80, change)
    after = [rendered(solver, each) for each in amounts]
    old, fade = np.zeros_like(mixer.y), mixer.fade_samples
    rise = (np.arange(1, fade + 1) / fade)[:, None]
    for turn in range(8):
        new = mixer.y if turn % 2 else after[turn // 2]
        start, stop = 10 * turn * BLOCK, 10 * (turn + 1) * BLOCK
        expected = new[start:stop].copy()
        expected[:fade] = rise * expected[:fade] + (1 - rise) * old[start : start + fade]
        np.testing.assert_allclose(played[start:stop], expected, atol=TOLERANCE)
        old = new
    assert mixer.underruns == 0


def test_a_slider_that_moves_faster_than_rendering_causes_no_underrun(mixer, solver):
    amounts = [solver.estimate(1.0 + i / 100) for i in range(101)]
    mixer.set_amounts(amounts[0])
    mixer.play()
    play_blocks(mixer, 2)
    for i in range(100):
        mixer.set_amounts(amounts[i])
        mixer.prepare()
        mixer.set_amounts(amounts[i + 1])  # the slider has moved on when the block is due
        mixer.fill(np.zeros((BLOCK, 2), np.float32))
    assert mixer.underruns == 0
    assert mixer.source.amounts in amounts[-4:]


def test_a_loop_is_exact_to_the_sample_and_its_ends_are_faded(mixer, solver):
    start, stop = 20_000, 31_111
    mixer.set_amounts(solver.estimate(1.0))
    mixer.loop((start, stop))
    mixer.seek(start)
    mixer.play()
    played = play_blocks(mixer, 120)
    after = rendered(solver, solver.estimate(1.0))
    fade, length = mixer.fade_samples, stop - start
    for turn in range(3):
        part = played[turn * length + fade : (turn + 1) * length]
        np.testing.assert_allclose(part, after[start + fade : stop], atol=TOLERANCE)
    assert mixer.underruns == 0


def test_a_seek_during_playback_jumps_there_with_a_fade(mixer, solver):
    mixer.set_amounts(solver.estimate(-1.0))
    mixer.play()
    play_blocks(mixer, 10)
    mixer.seek(80_000)
    played = play_blocks(mixer, 20)
    after = rendered(solver, solver.estimate(-1.0))
    fade = mixer.fade_samples
    np.testing.assert_allclose(played[fade:], after[80_000 + fade : 80_000 + len(played)], atol=TOLERANCE)


def test_playback_stops_at_the_end_and_then_starts_from_the_beginning(mixer):
    mixer.seek(len(mixer.y) - 1000)
    mixer.play()
    played = play_blocks(mixer, 10)
    assert not mixer.is_playing
    assert np.abs(played[2000:]).max() == 0
    mixer.play()
    play_blocks(mixer, 2)
    assert mixer.position == 2 * BLOCK


def test_a_pause_fades_to_silence(mixer):
    mixer.play()
    play_blocks(mixer, 5)
    mixer.pause()
    played = play_blocks(mixer, 5)
    assert mixer.is_silent
    assert np.abs(played[mixer.fade_samples :]).max() == 0
    assert largest_step(played) < largest_step(mixer.y) + 2 / mixer.fade_samples


def test_a_stream_in_real_time_has_no_underrun_while_the_slider_moves(mixer, solver):
    device = FakeDevice()
    player = Player(device)
    mixer.loop((0, len(mixer.y) - 1))
    mixer.set_amounts(solver.estimate(1.0))
    assert player.play(mixer) == ""
    end_s, n_moves = time.monotonic() + 5, 0
    while time.monotonic() < end_s:
        n_moves += 1
        mixer.set_amounts(solver.estimate(2.5 * math.sin(n_moves / 20) or 0.1))
        time.sleep(0.016)
    player.close()
    (stream,) = device.streams
    played = np.concatenate(stream.heard)
    assert len(played) > 4 * SR
    assert mixer.underruns == 0
    assert stream.closed
    rms = np.sqrt(np.mean(played[SR // 10 : -SR // 10].reshape(-1, 2) ** 2))
    assert rms == pytest.approx(np.sqrt(np.mean(mixer.y**2)), rel=0.2)
    assert largest_step(played) < 3 * largest_step(mixer.y) + 2 / mixer.fade_samples
