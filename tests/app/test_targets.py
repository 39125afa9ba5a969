"""Names of outputs beside their source: the first that is free, however long it is and whatever has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.app.targets import MAX_NAME_BYTES, RenderTarget, free_output, output_name
from neural_grain.dsp.curve import Lfo
from neural_grain.dsp.mix import Mix
from neural_grain.session.state import Session
from neural_grain.session.worker import Worker

TARGET = RenderTarget(-2.0)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "drone.flac"
    sf.write(path, drone(-45, 1.0), SR, "PCM_24")
    return path


def test_the_first_free_name_beside_the_source_is_found_whatever_has_the_others(source):
    folder = source.parent
    assert free_output(source, TARGET) == folder / "drone_grain-2.0.wav"
    (folder / "drone_grain-2.0.wav").touch()
    assert free_output(source, TARGET) == folder / "drone_grain-2.0 (2).wav"
    (folder / "drone_grain-2.0 (2).wav").mkdir()
    (folder / "drone_grain-2.0 (3).wav").symlink_to("nowhere")
    assert free_output(source, TARGET) == folder / "drone_grain-2.0 (4).wav"
    mixed = RenderTarget(-2.0, layer="tones", mix=Mix(0.5))
    assert free_output(source, mixed) == folder / "drone_grain-2.0_mix50_tones.wav"


@pytest.mark.parametrize(
    ("lfo", "name"),
    [
        (Lfo(2.0, 1.0), "drone_lfo2Hz_1oct.wav"),
        (Lfo(0.25, 1.5, "triangle", centre=-1.0), "drone_lfo0.25Hz_1.5oct_triangle_grain-1.0.wav"),
        (Lfo(1.0, 3.0, "random", seed=7), "drone_lfo1Hz_3oct_random7.wav"),
    ],
)
def test_the_name_of_an_output_has_the_numbers_of_its_lfo(source, lfo, name):
    assert output_name(source, RenderTarget(lfo.centre, curve=lfo)) == name


def test_the_smallest_grain_is_a_finite_number_of_octaves_away():
    assert RenderTarget(target_grain=5e-324).octaves_from(0.5) == 1073


def test_a_long_name_keeps_its_number(tmp_path):
    source = tmp_path / f"{'x' * 250}.wav"
    first = free_output(source, TARGET)
    first.touch()
    second = free_output(source, TARGET)
    assert second.name.endswith("_grain-2.0 (2).wav")
    assert {len(path.name) for path in (first, second)} == {MAX_NAME_BYTES}
    second.touch()


@pytest.fixture
def session() -> Iterator[Session]:
    worker = Worker(None, "cpu")
    worker.start()
    yield Session(worker)
    worker.close()


def test_a_result_is_saved_beside_the_sound_and_replaces_nothing(session, source):
    def wait() -> None:
        while session.n_tasks:
            session.handle(session.worker.messages.get(timeout=60))

    session.open(source)
    wait()
    mine = source.parent / "drone_grain-2.0.wav"
    mine.write_bytes(b"mine")
    session.save_beside(TARGET)
    session.save_beside(TARGET)  # before the first has its name
    wait()
    outputs = [source.with_name(f"drone_grain-2.0 ({number}).wav") for number in (2, 3)]
    assert session.status.startswith(f"saved {outputs[1]}: grain ")
    assert mine.read_bytes() == b"mine"
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert sorted(source.parent.glob("*.wav")) == sorted((mine, *outputs))
    assert not session.is_unsaved(TARGET)
