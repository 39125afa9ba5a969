"""The mixer block by block, without a device or a clock, and the player in real time with a fake device.

The oracle is the renderer itself: what is played must be the rendered sound, joined by linear fades.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone, noise

from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.limiter import CEILING, limit_peaks
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mix import Mix
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.solver import AmountSolver
from neural_grain.session.mixer import VERSIONS, Mixer
from neural_grain.session.player import Player

BLOCK = 300
TOLERANCE = 3e-6  # between rendering a part and rendering the whole


@pytest.fixture(scope="module")
def solver() -> AmountSolver:
    y = np.stack([drone(-45, 3.0), drone(-40, 3.0, seed=1)], axis=1).astype(np.float32)
    return GrainProcessor().solver(sound_from_array(y, SR))


@pytest.fixture
def mixer(solver) -> Mixer:
    y = np.concatenate(list(solver.analysis.sound.blocks()))
    return Mixer(y, SR, solver)


def rendered(solver: AmountSolver, amounts: Amounts) -> np.ndarray:
    """The whole sound "after"."""
    return np.concatenate(list(solver.field.render(amounts)))


def play_blocks(
    mixer: Mixer, n_blocks: int, before_block: Callable[[int], None] = lambda i: None, size: int = BLOCK
) -> np.ndarray:
    """What is played in some blocks, each of which is prepared in time."""
    played = []
    for i in range(n_blocks):
        before_block(i)
        while mixer.prepare():
            pass
        block = np.zeros((size, mixer.y.shape[1]), np.float32)
        mixer.fill(block)
        played.append(block)
    return np.concatenate(played)


def largest_step(y: np.ndarray) -> float:
    """Largest difference between neighbouring samples."""
    return float(np.abs(np.diff(y, axis=0)).max())


@pytest.mark.parametrize("amounts", [Amounts(9.0, 0.0, 0.9), Amounts(-20.0, 0.2), None])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_played_is_what_is_rendered(mixer, solver, version, amounts):
    mixer.set_amounts(amounts)
    mixer.listen(version)
    mixer.play()
    played = play_blocks(mixer, 100)
    before, tones = mixer.y, solver.analysis.layers.tones
    after = before if amounts is None else rendered(solver, amounts)
    if amounts is not None:
        tones = np.concatenate(list(solver.field.render_layer(amounts, "tones", CEILING)))
    every = {"before": before, "after": after, "difference": after - before, "tones": tones, "texture": after - tones}
    expected = every[version][: len(played)]
    fade = mixer.fade_samples
    np.testing.assert_allclose(played[fade:], expected[fade:], atol=TOLERANCE)
    assert mixer.underruns == 0


def test_what_is_heard_of_a_loud_sound_is_what_is_saved(tmp_path):
    """At -3 the peaks of this sound are far beyond the ceiling, and the limiter takes energy that is made up for."""
    t = np.arange(2 * SR) % (SR // 2)
    strokes = np.sin(2 * np.pi * 600 * t / SR) * np.exp(-t / 1_500) * np.minimum(1, t / 20)
    y = strokes + noise(2.0, level=1e-5)
    y = (0.99 * y / np.abs(y).max()).astype(np.float32)[:, None]
    sf.write(tmp_path / "loud.wav", y, SR, "PCM_24")
    processor = GrainProcessor()
    saved = processor.render_file(tmp_path / "loud.wav", tmp_path / "saved.wav", RenderTarget(-3.0)).rendering
    z, _ = sf.read(tmp_path / "saved.wav", dtype="float32", always_2d=True)
    assert saved.limited_db > 6
    assert saved.amounts.level > 1  # added texture alone would ask for less

    solver = processor.solver(sound_from_array(y, SR))
    rendering = move_grain(solver, -3.0, ceiling=max(CEILING, solver.analysis.peak))
    mixer = Mixer(y, SR, solver)
    for amounts in (solver.estimate(-3.0), rendering.amounts):
        mixer.set_amounts(amounts)
        mixer.seek(0)
        mixer.play()
        played = play_blocks(mixer, len(y) // BLOCK)
        mixer.pause()
        assert np.abs(played).max() <= CEILING
    fade = slice(mixer.fade_samples, len(played))
    ratio = np.mean(np.square(played[fade])) / np.mean(np.square(z[fade]))
    assert abs(10 * math.log10(ratio)) < 0.1
    in_memory = np.concatenate(list(rendering.sound.blocks()))
    np.testing.assert_allclose(played[fade], in_memory[fade], atol=TOLERANCE)


@pytest.mark.parametrize("mix", [Mix(0.4, 3.0), Mix(1.0, -6.0), Mix(0.0, 9.0), Mix(0.0)])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_mix_is_heard_with_its_gain_in_every_version(mixer, solver, version, mix):
    amounts = solver.estimate(-1.5)
    mixer.set_amounts(amounts)
    mixer.set_mix(mix)
    mixer.listen(version)
    mixer.play()
    played = play_blocks(mixer, 100)
    field, before = solver.field, mixer.y
    after = np.concatenate(list(limit_peaks(field.render(amounts, mix), CEILING, solver.analysis.sound)))
    tones = np.concatenate(list(field.render_layer(amounts, "tones", CEILING, mix)))
    every = {"before": before, "after": after, "difference": after - before, "tones": tones, "texture": after - tones}
    fade = mixer.fade_samples
    np.testing.assert_allclose(played[fade:], every[version][fade : len(played)], atol=TOLERANCE)
    if mix == Mix(0.0) and version == "after":
        np.testing.assert_array_equal(played[fade:], before[fade : len(played)])
    if mix.gain_db == 9:
        assert np.abs(after).max() == pytest.approx(CEILING)


def test_a_mix_that_moves_while_it_plays_makes_no_click_and_no_interruption(mixer, solver):
    mixer.set_amounts(solver.estimate(-1.5))
    mixer.play()
    play_blocks(mixer, 5)
    rng = np.random.default_rng(0)
    played = play_blocks(mixer, 150, lambda i: mixer.set_mix(Mix(rng.uniform(), rng.uniform(-24, 6))))
    step_of_sound = 2 * largest_step(rendered(solver, solver.estimate(-1.5)))  # 6 dB are a factor of 2
    assert largest_step(played) < step_of_sound + 2 * np.abs(played).max() / mixer.fade_samples
    assert mixer.underruns == 0


def test_a_mix_is_heard_as_it_is_saved_with_one_limiter(tmp_path):
    y = 0.9 * drone(-40, 2.0)[:, None] / np.abs(drone(-40, 2.0)).max()
    sf.write(tmp_path / "in.wav", y, SR, "FLOAT")
    y = sf.read(tmp_path / "in.wav", dtype="float32", always_2d=True)[0]
    processor, target = GrainProcessor(), RenderTarget(-2.0, mix=Mix(0.6, 6.0))
    saved = processor.render_file(tmp_path / "in.wav", tmp_path / "out.wav", target, subtype="PCM_24").rendering
    z, _ = sf.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert saved.limited_db > 3
    mixer = Mixer(y, SR, processor.solver(sound_from_array(y, SR)))
    mixer.set_amounts(saved.amounts)
    mixer.set_mix(target.mix)
    mixer.play()
    fade = mixer.fade_samples
    played = play_blocks(mixer, len(y) // BLOCK)
    np.testing.assert_allclose(played[fade:], z[fade : len(played)], atol=TOLERANCE)


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


def play_to_the_end(mixer: Mixer) -> None:
    mixer.seek(len(mixer.y) - 2_000)
    mixer.play()


def pause_and_seek(mixer: Mixer) -> None:
    mixer.pause()
    mixer.seek(90_000)


def pause_before_a_seek_is_done(mixer: Mixer) -> None:
    mixer.seek(90_000)
    mixer.pause()


def loop_from_here(mixer: Mixer) -> None:
    mixer.loop((mixer.position - 1_000, mixer.position + 1_000))


def set_volume(volume: float) -> Callable[[Mixer], None]:
    return lambda mixer: setattr(mixer, "volume", volume)


CHANGES = {
    "start": lambda mixer: None,
    "pause": Mixer.pause,
    "pause and seek": pause_and_seek,
    "pause before a seek is done": pause_before_a_seek_is_done,
    "seek": lambda mixer: mixer.seek(70_017),
    "seek to the end": lambda mixer: mixer.seek(10**9),
    "loop": loop_from_here,
    "before": lambda mixer: mixer.listen("before"),
    "difference": lambda mixer: mixer.listen("difference"),
    "tones": lambda mixer: mixer.listen("tones"),
    "texture": lambda mixer: mixer.listen("texture"),
    "mix": lambda mixer: mixer.set_mix(Mix(0.5)),
    "gain": lambda mixer: mixer.set_mix(Mix(gain_db=-9.0)),
    "no change": lambda mixer: mixer.set_amounts(None),
    "end": play_to_the_end,
    "mute": set_volume(0.0),
    "volume": set_volume(0.5),
}


@pytest.fixture(scope="module")
def tone_solver() -> AmountSolver:
    """Of a tone that ends in mid-wave at full level."""
    y = 0.6 * np.cos(2 * np.pi * 110 * np.arange(SR + 17) / SR)[:, None] * np.ones(2)
    return GrainProcessor().solver(sound_from_array(y, SR))


@pytest.mark.parametrize("amounts", [Amounts(0.5, 0.0), None])
@pytest.mark.parametrize("size", [BLOCK, 64, 2_000])
@pytest.mark.parametrize("change", CHANGES)
def test_no_change_makes_a_step(tone_solver, change, size, amounts):
    mixer = Mixer(np.concatenate(list(tone_solver.analysis.sound.blocks())), SR, tone_solver)
    mixer.set_amounts(amounts)
    mixer.seek(20_000)
    mixer.play()
    played = [play_blocks(mixer, 20, size=size)]
    for each in (CHANGES[change], Mixer.play, CHANGES[change]):
        each(mixer)
        played.append(play_blocks(mixer, 4_000 // size, size=size))
    y = np.concatenate((np.zeros((1, 2)), *played))
    own_step, step_of_fade = 0.6 * 2 * np.pi * 110 / SR, 2 * np.abs(y).max() / mixer.fade_samples
    assert largest_step(y) < 1.1 * (own_step + step_of_fade)
    assert mixer.underruns == 0


def test_sound_that_is_not_rendered_in_time_is_faded_out_and_continues_there(mixer, solver):
    mixer.set_amounts(solver.estimate(-1.5))
    mixer.play()
    played, block = [play_blocks(mixer, 5)], np.zeros((SR, 2), np.float32)
    mixer.fill(block)  # much longer than what is rendered ahead
    assert mixer.underruns == 1
    stopped_at = mixer.position
    played += [block, play_blocks(mixer, 20)]
    assert mixer.position == stopped_at + 20 * BLOCK
    step_of_fade = 2 * np.abs(block).max() / mixer.fade_samples
    assert largest_step(np.concatenate(played)) < largest_step(rendered(solver, solver.estimate(-1.5))) + step_of_fade


def test_a_place_rendered_while_the_playhead_jumps_does_not_replace_the_sound_there(mixer, solver, monkeypatch):
    mixer.set_amounts(solver.estimate(-1.0))
    mixer.play()
    play_blocks(mixer, 3)
    mixer.seek(80_000)
    assert mixer.prepare()
    render, block = solver.field.render_part, np.zeros((BLOCK, 2), np.float32)

    def jump_meanwhile(*args, **options):
        mixer.fill(block)
        return render(*args, **options)

    monkeypatch.setattr(solver.field, "render_part", jump_meanwhile)
    mixer.prepare()
    monkeypatch.undo()
    assert 80_000 <= mixer.position <= 80_000 + BLOCK
    start = mixer.position
    played = play_blocks(mixer, 20)[mixer.fade_samples :]
    expected = rendered(solver, solver.estimate(-1.0))[start:][: 20 * BLOCK][mixer.fade_samples :]
    np.testing.assert_allclose(played, expected, atol=TOLERANCE)
    assert mixer.underruns == 0


def test_the_wish_that_was_made_last_holds_while_three_threads_use_the_mixer(mixer, solver):
    """The interpreter changes threads every few bytecodes, so that every race has its chance."""
    heard, errors, positions, is_over = [], [], set(), threading.Event()

    def repeat(action: Callable[[], object]) -> None:
        while not is_over.is_set():
            try:
                action()
            except Exception as err:  # noqa: BLE001  fails the test, on whatever thread it is
                errors.append(err)
                return

    def fill() -> None:
        block = np.zeros((64, 2), np.float32)
        mixer.fill(block)
        heard.append(block)
        positions.add(mixer.position)

    def wait_until(condition: Callable[[], bool]) -> None:
        while not condition() and not errors:
            time.sleep(0)

    amounts = [solver.estimate(octaves) for octaves in (-1.5, 0.8, 2.0)]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in (fill, mixer.prepare)]
    rng, interval = np.random.default_rng(0), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for i in range(40):
            mixer.seek(0)
            mixer.play()
            wait_until(lambda: mixer.source is not None)
            positions.clear()
            mixer.set_amounts(amounts[i % 3])
            mixer.listen(("after", "before", "difference")[i % 4 % 3])
            for place in rng.integers(0, len(mixer.y) - SR, 3):
                mixer.seek(int(place))
            wait_until(lambda place=place: place + 64 in positions)
            mixer.pause()
            place = int(rng.integers(0, len(mixer.y)))
            mixer.seek(place)
            wait_until(lambda: mixer.is_silent)
            assert mixer.position == place
            assert not errors
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    y = np.concatenate(heard)
    step_of_sound = max(largest_step(rendered(solver, each)) for each in amounts)
    assert largest_step(y) < 2 * step_of_sound + 2 * np.abs(y).max() / mixer.fade_samples


def test_a_volume_is_reached_within_a_fade_and_is_exact_from_then_on(mixer):
    mixer.play()
    play_blocks(mixer, 5)
    mixer.volume = 0.25
    start = mixer.position
    played = play_blocks(mixer, 3)
    fade = mixer.fade_samples
    np.testing.assert_array_equal(played[fade:], np.float32(0.25) * mixer.y[start + fade : start + len(played)])
    ratio = played[10:fade] / np.where(mixer.y == 0, 1, mixer.y)[start + 10 : start + fade]
    assert np.all(np.diff(ratio, axis=0) < 1e-6)


def test_a_stream_that_is_closed_fades_out_and_the_next_one_fades_in(mixer):
    device = FakeDevice()
    player = Player(device)
    player.play(mixer)
    while mixer.position < 5_000:
        time.sleep(0.01)
    device.streams[-1].vanish()
    while device.streams[-1].active:
        time.sleep(0.01)
    assert player.check() != ""
    player.play(mixer)
    while mixer.position < 20_000:
        time.sleep(0.01)
    player.close()
    heard = np.concatenate((np.zeros((1, 2)), *device.streams[-1].heard, np.zeros((1, 2))))
    assert largest_step(heard) < largest_step(mixer.y) + 2 * np.abs(heard).max() / mixer.fade_samples


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
