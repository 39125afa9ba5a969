"""TODO"""

from __future__ import annotations

import math
import os
import pickle

import numpy as np
import pytest
import torch
from conftest import run, write_library

from neural_grain.base.errors import PipelineError
from neural_grain.learn import checkpoint as learn_checkpoint
from neural_grain.learn.checkpoint import load_model, read_checkpoint


class TestErrors:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("missing pairs", "training_pairs.json: no such file; make it with: python convert_to_spectrograms.py"),
            ("damaged pairs", "training_pairs.json: not readable as JSON"),
            ("pairs of another depth", "tiles are 80 dB deep, this version learns from 100: make them again with"),
            ("missing array", "not readable as a tile"),
            ("truncated array", "not readable as a tile"),
            ("pickled array", "not readable as a tile"),
            ("array of another shape", "is no tile of 128 x 256 float32"),
            ("array with NaN", "holds values outside 0 to 1"),
            ("a tile for one way only", "--batch-size 1: must be 2 or more"),
            ("nothing to resume", "no model there"),
        ],
    )
    def test_are_one_line_before_any_training(self, copied, damage, message):
        pairs = copied.folder / "training_pairs.json"
        array = sorted((copied.folder / "spectrograms/arrays").glob("*.npy"))[0]
        args = ()
        if damage == "missing pairs":
            pairs.unlink()
        elif damage == "damaged pairs":
            pairs.write_text(pairs.read_text()[:500])
        elif damage == "pairs of another depth":
            pairs.write_text(pairs.read_text().replace('"dynamic_range_db": 100.0', '"dynamic_range_db": 80.0'))
        elif damage == "missing array":
            array.unlink()
        elif damage == "truncated array":
            os.truncate(array, 1000)
        elif damage == "pickled array":
            np.save(array, np.array([{}], dtype=object), allow_pickle=True)
        elif damage == "array of another shape":
            np.save(array, np.zeros((64, 256), np.float32))
        elif damage == "array with NaN":
            np.save(array, np.full((128, 256), np.nan, np.float32))
        elif damage == "a tile for one way only":
            args = ("--batch-size", "1")
        else:
            (copied.folder / "grain_processor_v2_output/checkpoints/latest.pt").unlink()
            args = ("--resume",)
        output = copied.folder / "grain_processor_v2_output"
        before = {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()}
        ran = run("cak_grain_processor.py", *args, cwd=copied.folder)
        assert ran.status == 2
        errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert message in errors[0]
        assert {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("n_files", "message"), [(3, "3 files: a model needs at least 4"), (5, "all tiles are of one grain")]
    )
    def test_a_library_with_nothing_to_learn_from(self, tmp_path, n_files, message):
        write_library(tmp_path, n_files, 0.5)
        if n_files == 5:
            first = next(tmp_path.rglob("*.wav")).read_bytes()
            for path in tmp_path.rglob("*.wav"):
                path.write_bytes(first)
        run("measure_audio_grain.py", cwd=tmp_path)
        run("convert_to_spectrograms.py", "--no-images", cwd=tmp_path)
        ran = run("cak_grain_processor.py", cwd=tmp_path)
        assert ran.status == 2
        assert message in ran.err

    def test_no_code_from_a_checkpoint_ever_runs(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "hacked"),))

        (tmp_path / "model.pt").write_bytes(pickle.dumps(Malicious()))
        torch.save({"version": 1, "weights": Malicious()}, tmp_path / "zipped.pt")
        for name in ("model.pt", "zipped.pt"):
            with pytest.raises(PipelineError, match="not readable as a model"):
                read_checkpoint(tmp_path / name)
        assert not (tmp_path / "hacked").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 99}, f"is no model of version {learn_checkpoint.CHECKPOINT_VERSION}"),
            ({"channels": 9}, "weights do not fit"),
            ({"channels": "many"}, "field channels is 'many'"),
            ({"weights": {}}, "weights do not fit"),
            ({"settings": {}}, "settings: grain: is a NoneType, not an object"),
        ],
    )
    def test_a_model_that_does_not_fit_is_refused(self, project, tmp_path, change, message):
        content = torch.load(project.model, weights_only=True)
        torch.save({**content, **change}, tmp_path / "m.pt")
        with pytest.raises(PipelineError) as caught:
            load_model(tmp_path / "m.pt")
        assert message in str(caught.value)

    def test_weights_that_are_not_finite_are_refused(self, project, tmp_path):
        content = torch.load(project.model, weights_only=True)
        content["weights"]["scale"] = torch.tensor(math.nan)
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(PipelineError, match="weights are not finite"):
            load_model(tmp_path / "m.pt")
