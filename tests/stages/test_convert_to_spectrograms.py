"""Stage 2 as a user runs it: convert_to_spectrograms.py."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT, SR, call, drone, noise, state_of, write_library
from PIL import Image
from scipy.stats import spearmanr

import convert_to_spectrograms as stage2
from neural_grain.base.errors import PipelineError
from neural_grain.data.metadata import FileGrain
from neural_grain.data.pictures import TilePainter
from neural_grain.data.tiles import load_tile, read_pairs
from neural_grain.dsp.settings import GrainSettings, default_settings

SETTINGS = default_settings(GrainSettings())


def same_start_of_hash(name: str, digits: int) -> tuple[str, str]:
    """Two folders whose files of this name have paths with the same first digits of SHA-1."""
    folder_of: dict[str, str] = {}
    for i in range(1_000_000):
        digest = hashlib.sha1(f"{i}/{name}".encode()).hexdigest()[:digits]
        if (other := folder_of.setdefault(digest, str(i))) != str(i):
            return other, str(i)
    raise AssertionError("no such folders")


#: Stage 2 in a process that kills itself at a moment of the removal of stale tiles.
KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import convert_to_spectrograms
from neural_grain.data import tiles

at, unlink, write_pairs = sys.argv[1], Path.unlink, tiles.write_pairs
removed, written = [], []

def unlink_or_die(path, missing_ok=False):
    if "spectrograms" in path.parts and not path.name.startswith("."):
        if at == ("first removal", "second removal", "last removal")[len(removed)]:
            os.kill(os.getpid(), signal.SIGKILL)
        removed.append(path)
    unlink(path, missing_ok)

def write_or_die(path, pairs):
    if at == "second document" and written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write_pairs(path, pairs)

Path.unlink, tiles.write_pairs = unlink_or_die, write_or_die
convert_to_spectrograms.main([])
"""


class TestCommand:
    def test_a_run_that_changes_nothing_leaves_the_list_of_tiles_as_it_is(self, few_tiles):
        before = state_of(few_tiles.folder)
        ran = call("convert_to_spectrograms.py", cwd=few_tiles.folder)
        assert (ran.status, "0 converted, 6 unchanged" in ran.out) == (0, True)
        assert state_of(few_tiles.folder) == before

    def test_every_tile_is_an_array_and_an_image_named_in_training_pairs_json(self, converted):
        ran = converted.ran[1]
        assert ran.status == 0
        assert "12 converted, 0 unchanged, 0 gone" in ran.out
        assert "next: python cak_grain_processor.py" in ran.out
        content = json.loads((converted.folder / "training_pairs.json").read_text())
        assert content["version"] == 2
        assert len(content["settings"]["band_edges_hz"]) == 130
        grains = {
            item["path"]: item["grain"]
            for item in json.loads((converted.folder / "metadata.json").read_text())["files"]
        }
        for tile in content["tiles"]:
            whole, texture = (
                np.load(converted.folder / tile[name], allow_pickle=False) for name in ("array", "texture")
            )
            for x in (whole, texture):
                assert (x.shape, x.dtype) == ((128, 256), np.float32)
                assert 0 <= x.min() <= x.max() <= 1
            assert tile["grain"] == pytest.approx(
                grains[tile["source"]], rel=0.2
            )  # steady drones: a tile has the grain of its file
            name = Path(tile["array"]).stem
            assert [tile[part] for part in ("array", "texture", "image")] == [
                f"spectrograms/arrays/{name}.npy",
                f"spectrograms/arrays/{name}.texture.npy",
                f"spectrograms/images/{name}.png",
            ]

    def test_an_image_shows_the_whole_sound_and_its_texture_between_axes_and_a_title(self, converted):
        tile = read_pairs(converted.folder / "training_pairs.json").tiles[0]
        picture = np.asarray(Image.open(tile.image).convert("L"), float)
        painter, outside = TilePainter(SETTINGS), picture.copy()
        for x, columns in zip(load_tile(tile, SETTINGS), painter.columns, strict=True):
            drawn = picture[painter.rows, columns]
            rows, frames = (np.arange(size) * n // size for size, n in zip(drawn.shape, x.shape, strict=True))
            # The colour map rises in brightness, so that the order of the values is that of the pixels.
            assert spearmanr(x[rows[::-1]][:, frames], drawn, axis=None).statistic > 0.99
            outside[painter.rows, columns] = 255
        assert (outside < 100).sum() > 1000  # dark pixels of the axes, the labels and the title

    def test_a_second_run_converts_only_changed_files_and_removes_only_tiles_of_the_first(self, tmp_path):
        write_library(tmp_path, 5, 1.0)
        call("measure_audio_grain.py", cwd=tmp_path)
        call("convert_to_spectrograms.py", cwd=tmp_path)
        mine = tmp_path / "spectrograms" / "arrays" / "mine.npy"
        mine.write_bytes(b"not yours")
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(4), SR)
        kept = {
            path: path.stat().st_mtime_ns
            for path in tmp_path.rglob("*.npy")
            if files[2].stem.replace(" ", "_") in path.name
        }
        call("measure_audio_grain.py", cwd=tmp_path)
        ran = call("convert_to_spectrograms.py", cwd=tmp_path)
        assert "1 converted, 3 unchanged, 1 gone" in ran.out
        assert mine.read_bytes() == b"not yours"
        assert kept
        assert kept == {path: path.stat().st_mtime_ns for path in kept}
        tiles = json.loads((tmp_path / "training_pairs.json").read_text())["tiles"]
        named = {tile[name] for tile in tiles for name in ("array", "texture")}
        there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npy")} - {
            "spectrograms/arrays/mine.npy"
        }
        assert there == named

    def test_arrays_of_an_earlier_version_with_shorter_names_are_replaced(self, few_tiles):
        def shorter(name: str) -> str:
            return re.sub(r"_([0-9a-f]{8})[0-9a-f]{8}_(\d{6})\.", r"_\1_\2.", name)

        pairs = few_tiles.folder / "training_pairs.json"
        now = set((few_tiles.folder / "spectrograms").rglob("*.*"))
        for path in now:
            path.rename(path.with_name(shorter(path.name)))
        pairs.write_text(shorter(before := pairs.read_text()))
        assert pairs.read_text() != before
        ran = call("convert_to_spectrograms.py", cwd=few_tiles.folder)
        assert "6 converted, 0 unchanged, 0 gone" in ran.out
        assert pairs.read_text() == before
        assert set((few_tiles.folder / "spectrograms").rglob("*.*")) == now

    def test_files_of_one_name_whose_paths_share_the_first_32_bits_of_their_hash_get_arrays_of_their_own(
        self, tmp_path
    ):
        folders = same_start_of_hash("take.wav", digits=8)
        for folder, y in zip(folders, (drone(-20, 0.5), drone(-60, 0.5)), strict=True):
            (tmp_path / folder).mkdir()
            sf.write(tmp_path / folder / "take.wav", y, SR)
        call("measure_audio_grain.py", *folders, cwd=tmp_path)
        call("convert_to_spectrograms.py", "--no-images", cwd=tmp_path)
        tiles = read_pairs(tmp_path / "training_pairs.json").tiles
        assert len({tile.array for tile in tiles}) == len(tiles) == 2

    def test_files_whose_arrays_would_have_the_same_name_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(stage2, "HASH_DIGITS", 2)
        paths = [tmp_path / folder / "take.wav" for folder in same_start_of_hash("take.wav", digits=2)]
        with pytest.raises(PipelineError, match="would have the same names"):
            stage2.convert_dataset(
                [FileGrain(path, 0.1, 1.0, SR, 1, 1, 1) for path in paths],
                GrainSettings(),
                output_dir=tmp_path / "spectrograms",
                base=tmp_path,
            )

    def test_arrays_that_are_missing_or_that_a_power_cut_left_empty_or_cut_off_are_made_again(self, few_tiles):
        arrays = sorted((few_tiles.folder / "spectrograms/arrays").iterdir())
        damaged = [arrays[0], arrays[3], arrays[5], arrays[6]]  # files 0 and 3: the whole sound; files 1 and 2: texture
        before = [path.read_bytes() for path in arrays]
        for path, size in zip(damaged, (0, 1000, 0, 1000), strict=True):
            os.truncate(path, size)
        arrays[9].unlink()
        ran = call("convert_to_spectrograms.py", cwd=few_tiles.folder)
        assert "5 converted, 1 unchanged" in ran.out
        assert [path.read_bytes() for path in arrays] == before

    def test_new_tiles_are_on_the_disk_before_the_document_names_them(self, few_tiles, monkeypatch):
        monkeypatch.chdir(few_tiles.folder)
        before = Path("training_pairs.json").read_bytes()
        written = []

        def sync() -> None:
            written.append((len(list(Path("spectrograms").rglob("*.*"))), Path("training_pairs.json").read_bytes()))

        monkeypatch.setattr(os, "sync", sync)
        monkeypatch.setattr(stage2, "HASH_DIGITS", 15)  # so that all are converted again
        assert stage2.main([]) == 0
        assert written == [(2 * 18, before)]

    @pytest.mark.parametrize("at", ["first removal", "last removal", "second document"])
    def test_a_kill_while_stale_arrays_are_removed_leaves_a_list_of_what_is_there(self, few_tiles, at):
        stale = [path for path in few_tiles.folder.rglob("*sound*") if "sound_00" in path.name]
        next(few_tiles.folder.rglob("sound 00.wav")).unlink()
        call("measure_audio_grain.py", cwd=few_tiles.folder)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_RUN, at],
            cwd=few_tiles.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        pairs = read_pairs(few_tiles.folder / "training_pairs.json")
        assert len(pairs.sources) == 5
        assert all(file.exists() for tile in pairs.tiles for file in tile.files)
        assert "0 converted, 5 unchanged" in call("convert_to_spectrograms.py", cwd=few_tiles.folder).out
        assert len(stale) == 3
        assert not any(path.exists() for path in stale)
        call("convert_to_spectrograms.py", "--pairs", "fresh.json", cwd=few_tiles.folder)
        assert (few_tiles.folder / "fresh.json").read_text() == (few_tiles.folder / "training_pairs.json").read_text()

    def test_images_can_be_left_out_and_added_later(self, tmp_path):
        write_library(tmp_path, 2, 1.0)
        call("measure_audio_grain.py", cwd=tmp_path)
        assert call("convert_to_spectrograms.py", "--no-images", cwd=tmp_path).status == 0
        assert not list(tmp_path.rglob("*.png"))
        assert "2 converted" in call("convert_to_spectrograms.py", cwd=tmp_path).out  # now with pictures
        assert len(list(tmp_path.rglob("*.png"))) == 2

    def test_tiles_made_with_other_settings_are_made_again(self, few_tiles):
        pairs = few_tiles.folder / "training_pairs.json"
        before = pairs.read_text()
        pairs.write_text(before.replace('"dynamic_range_db": 100.0', '"dynamic_range_db": 80.0'))
        ran = call("convert_to_spectrograms.py", "--no-images", cwd=few_tiles.folder)
        assert ran.status == 0, ran.err
        assert " 0 unchanged" in ran.out
        assert json.loads(pairs.read_text())["settings"]["dynamic_range_db"] == 100.0
        assert all((few_tiles.folder / tile["array"]).exists() for tile in json.loads(pairs.read_text())["tiles"])

    def test_a_file_that_changed_or_vanished_is_named_and_the_others_are_converted(self, tmp_path):
        write_library(tmp_path, 4, 1.0)
        call("measure_audio_grain.py", cwd=tmp_path)
        files = sorted(tmp_path.rglob("*.wav"))
        files[0].unlink()
        sf.write(files[1], noise(2), SR)
        ran = call("convert_to_spectrograms.py", cwd=tmp_path)
        assert ran.status == 1
        assert f"{files[0].name}: not readable (No such file or directory)" in ran.err
        assert f"{files[1].name}: changed since it was measured" in ran.err
        assert "2 files, 2 skipped" in ran.out

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            (None, "{", "metadata.json: not readable as JSON"),
            ("version", 7, "field version is 7, this program reads 1"),
            ("settings", {}, "settings: object missing required field sample_rate_hz"),
            ("files", "all", "files: expected array, got 'all'"),
            ("files", [3], "files[0]: expected object, got 3"),
            ("files", [], "names no measured file"),
            ("grain", -1.0, "files[0].grain: expected float > 0.0, got -1.0"),
            ("grain", "x", "files[0].grain: expected float, got 'x'"),
            ("size_bytes", None, "files[0].size_bytes: expected int, got null"),
            ("grain", 10**400, "files[0].grain: number out of range"),
        ],
    )
    def test_damaged_metadata_is_reported_in_one_line(self, few_tiles, field, value, message):
        path = few_tiles.folder / "metadata.json"
        content = json.loads(path.read_text())
        if field is None:
            path.write_text(value)
        else:
            (content if field in content else content["files"][0])[field] = value
            path.write_text(json.dumps(content))
        before = (few_tiles.folder / "training_pairs.json").read_bytes()
        ran = call("convert_to_spectrograms.py", cwd=few_tiles.folder)
        assert ran.status == 2
        assert message in ran.err
        assert len(ran.err.splitlines()) == 1
        assert (few_tiles.folder / "training_pairs.json").read_bytes() == before

    @pytest.mark.parametrize("output", ["metadata.json", "Drone/Static/sound 00.wav"])
    def test_neither_metadata_nor_a_recording_is_the_output(self, few_tiles, output):
        before = (few_tiles.folder / output).read_bytes()
        ran = call(
            "convert_to_spectrograms.py", "--pairs", output, "--output-dir", "Drone/Static/x", cwd=few_tiles.folder
        )
        assert ran.status == 2
        assert f"error: {output}: is an input of this run, which is never overwritten" in ran.err
        assert (few_tiles.folder / output).read_bytes() == before

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda text: text[: len(text) // 2], "not readable as JSON"),
            (lambda text: text.replace('"version": 2', '"version": 1'), "field version is 1, this program reads 2"),
            (lambda text: text.replace('"tile_frames": 256', '"tile_frames": 128'), "tile_frames=128"),
            (lambda text: text.replace('"start_s": 0.0', '"start_s": null', 1), "expected float, got null"),
            (lambda text: text.replace('"array": "', '"array": "../', 1), "tiles[0].array: is outside the folder"),
            (
                lambda text: text.replace('"texture": "', '"texture": "../', 1),
                "tiles[0].texture: is outside the folder",
            ),
            (lambda text: text.replace('"crest_db": ', '"crest": ', 1), "missing required field crest_db"),
        ],
    )
    def test_damaged_or_outdated_pairs_are_made_again_by_this_stage_and_refused_by_the_next(
        self, few_tiles, damage, reason
    ):
        path = few_tiles.folder / "training_pairs.json"
        good, files = path.read_text(), set(few_tiles.folder.rglob("*"))
        path.write_text(damage(good))
        refused = call("cak_grain_processor.py", cwd=few_tiles.folder)
        assert (refused.status, len(refused.err.splitlines())) == (2, 1)
        assert reason in refused.err
        ran = call("convert_to_spectrograms.py", cwd=few_tiles.folder)
        assert (ran.status, "6 converted, 0 unchanged" in ran.out) == (0, True)
        (line,) = [line for line in ran.err.splitlines() if "training_pairs.json" in line]
        assert reason in line
        assert "it is made again" in line
        assert path.read_text() == good
        assert set(few_tiles.folder.rglob("*")) == files

    def test_missing_metadata_names_the_command_that_makes_it(self, tmp_path):
        ran = call("convert_to_spectrograms.py", cwd=tmp_path)
        assert ran.status == 2
        assert "metadata.json: no such file; make it with: python measure_audio_grain.py" in ran.err

    def test_pairs_with_another_tile_length_are_refused(self, few_tiles):
        path = few_tiles.folder / "training_pairs.json"
        content = json.loads(path.read_text())
        content["settings"]["tile_frames"] = 128
        path.write_text(json.dumps(content))
        with pytest.raises(PipelineError, match="settings: tile_frames=128, this program works with 256"):
            read_pairs(path)
