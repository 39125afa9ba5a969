"""Instruments: the preset's fades, its samples, and files of the user that are in the way."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, call, drone

from neural_grain.app.instrument import check_presets, fade_table, preset, preset_paths, write_presets
from neural_grain.app.targets import Job, RenderTarget
from neural_grain.base.errors import PipelineError

POSITIONS = (-3.0, -1.5, 0.0, 1.5, 3.0)


def jobs_of(folder: Path, stem: str = "drone") -> list[Job]:
    return [
        Job(folder / f"{stem}.wav", folder / "out" / f"{stem}{octaves:+g}.wav", RenderTarget(octaves))
        for octaves in POSITIONS
    ]


def gains_at(root: ET.Element, knob: float) -> list[float]:
    """The gain of every group at a position of the knob, as the sampler computes it from the tables."""
    gains = []
    for binding in root.iter("binding"):
        if binding.get("parameter") == "AMP_VOLUME":
            pairs = np.array([pair.split(",") for pair in binding.get("translationTable").split(";")], float)
            gains.append(float(np.interp(knob, *pairs.T)))
    return gains


@pytest.mark.parametrize("knob", [-3.0, -2.2, -1.5, 0.0, 0.7, 3.0])
def test_the_knob_fades_between_two_neighbours_whose_gains_add_up_to_one(tmp_path, knob):
    gains = gains_at(ET.fromstring(preset(jobs_of(tmp_path))), knob)
    assert sum(gains) == pytest.approx(1.0)
    assert np.dot(gains, POSITIONS) == pytest.approx(knob)
    assert sum(gain > 0 for gain in gains) <= 2


def test_the_preset_has_one_knob_on_the_modulation_wheel_and_begins_at_zero(tmp_path):
    root = ET.fromstring(preset(jobs_of(tmp_path)))
    (knob,) = root.iter("labeled-knob")
    assert [float(knob.get(name)) for name in ("minValue", "value", "maxValue")] == [-3.0, 0.0, 3.0]
    (controller,) = root.iter("cc")
    assert controller.get("number") == "1"
    (binding,) = controller
    assert (binding.get("level"), binding.get("parameter"), binding.get("position")) == ("ui", "VALUE", "0")
    assert [group.get("volume") for group in root.iter("group")] == ["0.0", "0.0", "1.0", "0.0", "0.0"]
    assert [sample.get("path") for sample in root.iter("sample")] == [f"drone{octaves:+g}.wav" for octaves in POSITIONS]


def test_names_are_escaped(tmp_path):
    jobs = jobs_of(tmp_path, 'a & b <"c">')
    (first, *_) = ET.fromstring(preset(jobs)).iter("sample")
    assert first.get("path") == jobs[0].output.name


def test_fades_are_triangles():
    assert fade_table([-1.0, 0.0, 2.0], 1) == "-1,0;0,1;2,0"


class TestFilesOfTheUser:
    def test_a_preset_of_the_user_is_kept_and_an_own_one_is_replaced(self, tmp_path):
        jobs = jobs_of(tmp_path)
        jobs[0].output.parent.mkdir()
        path = jobs[0].output.parent / "drone.dspreset"
        path.write_text("<DecentSampler/>")
        with pytest.raises(PipelineError, match="is kept"):
            check_presets(jobs)
        path.unlink()
        for job in jobs:
            job.output.write_bytes(b"")
        assert write_presets(jobs) == [path]
        check_presets(jobs)

    def test_there_is_no_preset_while_a_variation_is_missing(self, tmp_path):
        assert write_presets(jobs_of(tmp_path)) == []

    def test_sounds_that_differ_only_in_their_extension_have_presets_of_their_own(self, tmp_path):
        (tmp_path / "out").mkdir()
        jobs = [
            Job(tmp_path / name, tmp_path / "out" / f"{name}{octaves:+g}.wav", RenderTarget(octaves))
            for name in ("drone.wav", "drone.flac", "bell.wav")
            for octaves in POSITIONS
        ]
        for job in jobs:
            job.output.write_bytes(b"")
        assert [path.name for path in write_presets(jobs)] == [
            "drone.wav.dspreset",
            "drone.flac.dspreset",
            "bell.dspreset",
        ]

    def test_a_long_name_is_shortened(self, tmp_path):
        (path,) = preset_paths(jobs_of(tmp_path, "x" * 250))
        assert len(path.name) == 255

    @pytest.mark.parametrize("stem", ["bell\x07", "undecodable\udcff"])
    def test_a_name_that_xml_can_not_hold_is_refused(self, tmp_path, stem):
        with pytest.raises(PipelineError, match="rename the sound"):
            check_presets(jobs_of(tmp_path, stem))


def test_the_command_line_makes_an_instrument_of_a_sweep(tmp_path):
    sf.write(tmp_path / "drone.wav", drone(-45, 1.0), SR, "PCM_24")
    ran = call("neural_audio_processor.py", "drone.wav", "--sweep", "3", "--instrument", "-o", "out/", cwd=tmp_path)
    assert ran.status == 0
    root = ET.parse(tmp_path / "out" / "drone.dspreset").getroot()
    samples = [sf.read(tmp_path / "out" / sample.get("path"))[0] for sample in root.iter("sample")]
    assert len(samples) == 3
    np.testing.assert_array_equal(samples[1], sf.read(tmp_path / "drone.wav")[0])
    halfway = 0.5 * (samples[0] + samples[1])  # the knob between -3 and 0: the tones keep their level
    tone = np.exp(-2j * np.pi * 110 * np.arange(len(halfway)) / SR)
    assert abs(halfway @ tone) == pytest.approx(abs(samples[1] @ tone), rel=0.1)


def test_it_needs_a_sweep(tmp_path):
    sf.write(tmp_path / "drone.wav", drone(-45, 1.0), SR)
    ran = call("neural_audio_processor.py", "drone.wav", "--grain", "1", "--instrument", cwd=tmp_path)
    assert ran.status == 2
    assert "--instrument is made of the positions of --sweep" in ran.err
