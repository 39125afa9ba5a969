"""The output devices: their names, the choice of one, one that is missing, and one that disappears while it plays."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import SR, FakeDevice, drone

from neural_grain.app.processor import GrainProcessor
from neural_grain.audio.sound import sound_from_array
from neural_grain.dsp.solver import AmountSolver
from neural_grain.session.mixer import Mixer
from neural_grain.session.player import STALL_S, Player

OUTPUTS = ("headphones", "interface", "speakers")  # the last is the default


@pytest.fixture(scope="module")
def solver() -> AmountSolver:
    return GrainProcessor().solver(sound_from_array(drone(-45, 3.0), SR))


@pytest.fixture
def mixer(solver) -> Mixer:
    return Mixer(np.concatenate(list(solver.analysis.sound.blocks())), SR, solver)


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice(outputs=OUTPUTS)


@pytest.fixture
def player(device) -> Iterator[Player]:
    player = Player(device)
    yield player
    player.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def output_of(device: FakeDevice) -> str:
    """Where the stream that was opened last plays."""
    return device.streams[-1].output["name"]


def test_outputs_are_listed_with_the_default_one_first_and_no_inputs(player):
    assert player.outputs == ["speakers", "headphones", "interface"]


def test_outputs_of_one_name_are_told_apart_by_their_host_api():
    player = Player(FakeDevice(outputs=("card:ALSA", "other", "card:JACK", "other")))
    assert player.outputs == ["other (ALSA)", "card (ALSA)", "card (JACK)"]


def test_without_sounddevice_there_are_none(monkeypatch, mixer):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    player = Player()
    player.refresh()
    assert player.outputs == []
    assert player.choose("speakers") == ""
    assert player.play(mixer).startswith("no sound: ")


def test_the_chosen_output_plays_and_an_empty_name_is_the_default(player, device, mixer):
    for name, output in (("interface", "interface"), ("", "speakers")):
        assert player.choose(name) == ""
        assert player.play(mixer) == ""
        assert output_of(device) == output


def test_a_sound_goes_on_at_its_place_on_another_output(player, device, mixer):
    assert player.play(mixer) == ""
    wait_until(lambda: mixer.position > 10_000)
    before = mixer.position
    assert player.choose("headphones") == ""
    assert mixer.is_playing
    assert output_of(device) == "headphones"
    wait_until(lambda: device.streams[-1].heard)
    assert device.streams[0].closed
    first_s = len(device.streams[0].heard) * device.block
    wait_until(lambda: mixer.position > before + 5_000)
    assert before <= first_s < before + SR // 2
    heard = np.concatenate(device.streams[-1].heard)[:, 0]
    start = mixer.fade_samples
    place = np.flatnonzero(np.abs(heard) > 0)[0]
    part = heard[place + start : place + start + 2_000]
    y = mixer.y[:, 0]
    offsets = range(before - 2_000, before + SR // 2)
    assert min(np.abs(y[i : i + 2_000 : 40] - part[::40]).max() for i in offsets) < 1e-6


def test_a_sound_that_rests_is_not_started_by_a_choice(player, device, mixer):
    player.play(mixer)
    player.pause()
    assert player.choose("headphones") == ""
    assert not mixer.is_playing
    assert len(device.streams) == 1
    assert player.play(mixer) == ""
    assert output_of(device) == "headphones"


def test_a_remembered_output_that_is_missing_is_said_once_and_the_default_plays(player, device, mixer):
    player.output = "old interface"
    assert player.play(mixer) == "the output old interface is not connected; playing on the default one"
    assert mixer.is_playing
    assert output_of(device) == "speakers"
    player.close()
    assert player.play(mixer) == ""
    player.close()
    device.connected = ("old interface", *OUTPUTS)
    assert player.play(mixer) == ""
    assert output_of(device) == "old interface"
    player.close()
    device.connected = OUTPUTS
    player.refresh()
    assert "old interface is not connected" in player.play(mixer)


@pytest.mark.parametrize("is_stalled", [False, True])
def test_an_output_that_disappears_is_reported_and_another_can_be_chosen(
    player, device, mixer, is_stalled, monkeypatch
):
    monkeypatch.setattr("neural_grain.session.player.STALL_S", min(STALL_S, 0.3))
    player.choose("interface")
    player.play(mixer)
    wait_until(lambda: mixer.position > 1_000)
    assert player.check() == ""
    device.connected = ("headphones", "speakers")
    device.streams[-1].is_stalled = is_stalled
    device.streams[-1].active = is_stalled
    lines = []
    wait_until(lambda: lines.append(player.check()) or lines[-1])
    assert lines[-1] == "no sound: the output interface stopped; play again, or choose another output first"
    assert player.check() == ""
    assert player.outputs == ["speakers", "headphones"]
    assert not mixer.is_playing
    assert player.choose("headphones") == ""
    assert player.play(mixer) == ""
    assert output_of(device) == "headphones"


def test_without_any_output_the_reason_is_said_until_one_is_connected(player, device, mixer):
    device.connected = ()
    player.refresh()
    assert player.outputs == []
    assert player.play(mixer) == "no sound: Error querying device -1"
    assert player.choose("headphones") == ""
    device.connected = OUTPUTS
    assert player.play(mixer) == ""
    assert output_of(device) == "headphones"


def test_a_refresh_does_not_disturb_what_plays(player, device, mixer):
    player.play(mixer)
    n_starts = device.n_starts
    player.refresh()
    assert device.n_starts == n_starts
    player.pause()
    player.refresh()
    assert device.n_starts == n_starts + 1


@pytest.mark.skipif(sys.platform != "linux", reason="the devices are those of ALSA")
def test_real_outputs_are_listed_chosen_and_found_again(tmp_path, monkeypatch, mixer):
    """Two devices of ALSA that need no card. They keep no time, but PortAudio, its list and its streams are real."""
    config, played = tmp_path / "asound.conf", tmp_path / "played.raw"
    default = "pcm.!default { type null }\nctl.!default { type null }\n"
    recorder = f'pcm.recorder {{ type file slave.pcm {{ type null }} file "{played}" format "raw" }}\n'
    config.write_text(f"{default}pcm.headphones {{ type null }}\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(config))
    player = Player()
    player.refresh()
    assert player.outputs == ["default", "headphones"]
    assert player.choose("headphones") == ""
    mixer.loop((0, 100_000))
    assert player.play(mixer) == ""
    config.write_text(default + recorder)
    assert player.outputs == ["default", "headphones"]  # PortAudio keeps its list while it plays
    player.close()
    player.output = "recorder"
    assert player.play(mixer) == ""  # it was connected in the meantime
    assert player.outputs == ["default", "recorder"]
    wait_until(lambda: played.stat().st_size > 400_000)
    player.close()
    heard = np.frombuffer(played.read_bytes()[: played.stat().st_size // 4 * 4], np.float32)
    assert 0.1 < np.abs(heard).max() <= 1
    assert player.choose("headphones") == ""
    assert "the output headphones is not connected" in player.play(mixer)
    player.close()


def test_where_portaudio_cannot_be_started_again_there_are_no_outputs_until_it_can(player, device, mixer, monkeypatch):
    def fail() -> None:
        raise device.PortAudioError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(device, "_initialize", fail)
        patch.setattr(device, "query_devices", fail)
        player.output = "headphones"
        player.refresh()
        assert player.outputs == []
        assert "headphones is not connected" in player.play(mixer) or not mixer.is_playing
    player.choose("headphones")
    assert player.play(mixer) == ""
    assert output_of(device) == "headphones"
