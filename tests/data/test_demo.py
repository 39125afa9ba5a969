"""The demo library."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from conftest import call

from neural_grain.audio.sound import sound_from_array
from neural_grain.data import demo as demo_module
from neural_grain.data.demo import DEMO, DEMO_FOLDERS, demo_sound
from neural_grain.dsp.layers import crest_factor_db, split_layers
from neural_grain.dsp.settings import GrainSettings

GRAINS = np.geomspace(DEMO.lowest_grain, DEMO.highest_grain, DEMO.files_per_folder)
SHORT = replace(DEMO, duration_s=3.0)  # what is said of the library does not depend on it


def power_db(y: np.ndarray) -> float:
    return 10 * np.log10(np.square(y, dtype=float).mean())


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory):
    """The library with shorter sounds, and what was printed when it was made."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "DEMO", SHORT)
        return folder, call("measure_audio_grain.py", "--demo", cwd=folder)


@pytest.fixture
def demo(short_demo, monkeypatch):
    monkeypatch.setattr(demo_module, "DEMO", SHORT)
    return short_demo


class TestDemoLibrary:
    def test_is_small_and_its_grain_is_evenly_spaced_in_octaves(self, demo):
        folder, ran = demo
        assert ran.status == 0, ran.err
        files = json.loads((folder / "metadata.json").read_text())["files"]
        assert len(files) == 60
        assert sum(item["size_bytes"] for item in files) * DEMO.duration_s / SHORT.duration_s < 40e6
        for folder_name in ("Drone/Static", "Drone/Evolving", "Harmonic Progression"):
            octaves = np.log2([item["grain"] for item in files if item["path"].startswith(folder_name)])
            np.testing.assert_allclose(octaves, np.linspace(np.log2(1e-5), np.log2(0.06), 20), atol=0.15)

    def test_is_the_same_in_every_run(self, demo):
        folder, _ = demo
        y, _ = sf.read(folder / "Drone/Static/demo_static_06.flac", dtype="int16", always_2d=True)
        again = demo_sound("Drone/Static", 5, float(GRAINS[5])).y
        assert np.abs(y - np.round(again * 32767)).max() <= 1

    def test_is_not_written_again_by_a_second_run(self, demo):
        folder, _ = demo
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
        leftover = folder / f"Drone/Static/.grain-{'0' * 16}.part.flac"  # of a run that was killed
        for hidden in (leftover, folder / "Drone/.DS_Store"):
            hidden.touch()
        assert "0 measured, 60 unchanged" in call("measure_audio_grain.py", "--demo", cwd=folder).out
        assert not leftover.exists()
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}

    def test_is_refused_in_folders_that_hold_anything_else(self, tmp_path):
        (tmp_path / "Drone").mkdir()
        (tmp_path / "Drone" / "mine.wav").write_bytes(b"precious")
        ran = call("measure_audio_grain.py", "--demo", cwd=tmp_path)
        assert ran.status == 2
        assert "holds mine.wav, not only the demo" in ran.err
        assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.wav"]


@pytest.mark.parametrize("index", [2, 14])  # the texture lies 38 to 48 dB and 16 to 24 dB below the tone
@pytest.mark.parametrize("kind", DEMO_FOLDERS)
def test_the_layers_of_a_demo_sound_are_the_parts_that_it_was_mixed_of(kind, index):
    sound = demo_sound(kind, index, float(GRAINS[index]))
    layers = split_layers(sound_from_array(sound.y.astype(np.float32), DEMO.sample_rate_hz), GrainSettings())
    texture = layers.texture(0, len(sound.y))
    assert power_db(texture) == pytest.approx(power_db(sound.texture), abs=2)
    assert crest_factor_db(texture) == pytest.approx(
        crest_factor_db(sound.texture), abs=2
    )  # 13 of breath, 36 of crackle
    assert power_db(texture - sound.texture) < power_db(sound.texture) - 6
    assert power_db(layers.tones - sound.tone) < power_db(sound.tone) - 25
