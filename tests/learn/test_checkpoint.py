"""Model files and training checkpoints: small, safe to read, and refused in one line if they don't fit."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from learning import SETTINGS

from neural_grain.base.errors import PipelineError
from neural_grain.data.tiles import read_pairs
from neural_grain.learn.adam import Adam
from neural_grain.learn.checkpoint import load_state
from neural_grain.learn.dataset import fingerprint
from neural_grain.learn.model import GrainModel
from neural_grain.learn.model_file import CHECKPOINT_VERSION, load_model, read_checkpoint

INFINITE = np.full((16, 16, 5), math.inf, np.float32)
SCORES = ("distance", "correction", "violation_texture", "violation_smooth")


def begin_epoch(**changes: object) -> Callable[[dict], None]:
    """Store the progress of an epoch after its first step, with some values changed."""
    state = np.random.default_rng(0).bit_generator.state
    progress = {"step": 1, "random_state": state, "scores": {name: [0.5] for name in SCORES}}
    return lambda content: content.update(begun={**progress, **changes})


def test_a_model_is_small_and_says_what_it_was_trained_on_and_how_it_did(project):
    assert project.model.stat().st_size < 1e6
    content = torch.load(project.model, weights_only=True)
    assert "optimizer" not in content
    assert content["training"]["files"] == 12
    assert content["training"]["seed"] == 0
    assert "the slider is accurate to 0.05 octaves" in content["audit"]["verdict"]
    loaded = load_model(project.model)
    assert loaded.settings == SETTINGS
    assert sum(loaded.grains.counts) == 12
    low, *_, high = loaded.grains.log2_edges
    assert all(
        low <= math.log2(source.grain) <= high for source in read_pairs(project.folder / "training_pairs.json").sources
    )


def test_a_model_from_before_the_distribution_of_grain_was_stored_is_loaded(project, tmp_path):
    content = torch.load(project.model, weights_only=True)
    del content["grains"]
    torch.save(content, tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt").grains is None


def test_no_code_from_a_checkpoint_ever_runs(tmp_path):
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
        ({"version": 99}, f"is no model of version {CHECKPOINT_VERSION}"),
        ({"channels": 9}, "weights do not fit"),
        ({"channels": "many"}, "field channels is 'many'"),
        ({"weights": {}}, "weights do not fit"),
        ({"settings": {}}, "settings: "),
        ({"training": []}, "field training is of type list"),
        ({"grains": {}}, "grains: "),
        ({"grains": {"first_octaves": -9.0, "step_octaves": 0.5, "counts": [1] * 1000}}, "grains.counts"),
        ({"audit": {"verdict": "x" * 10_000}}, "audit: field 'verdict'"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(project, tmp_path, change, message):
    content = torch.load(project.model, weights_only=True)
    torch.save({**content, **change}, tmp_path / "m.pt")
    with pytest.raises(PipelineError) as caught:
        load_model(tmp_path / "m.pt")
    assert message in str(caught.value)


def test_weights_that_are_not_finite_are_refused(project, tmp_path):
    content = torch.load(project.model, weights_only=True)
    content["weights"]["scale"] = torch.full((2,), math.nan)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(PipelineError, match="weights are not finite"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.update(fingerprint="x"), "was made from other tiles or options"),
        (lambda content: content["optimizer"]["state"][0].pop("exp_avg"), "training can't continue from it"),
        (
            lambda content: content["optimizer"]["state"][3].update(exp_avg_sq=INFINITE),
            "training can't continue",
        ),
        (lambda content: content["history"][0].pop("seconds"), "training can't continue from it"),
        (begin_epoch(random_state={}), "training can't continue"),
        (begin_epoch(scores={}), "training can't continue"),
        (begin_epoch(step=0, scores={name: [] for name in SCORES}), "training can't continue"),
        (begin_epoch(step=10**6), "training can't continue"),
        (begin_epoch(scores={name: [-1.0] for name in SCORES}), "training can't continue"),
    ],
)
def test_a_checkpoint_that_training_can_not_continue_from_is_refused(short_run, damage, message):
    path = short_run.folder / "checkpoints/latest.pt"
    identity = fingerprint(short_run.pairs, short_run.options)
    model = GrainModel(SETTINGS)
    content = read_checkpoint(path)
    state = load_state(content, path, identity, model, Adam(model.parameters()))
    assert (len(state.history), state.epoch_progress) == (2, None)
    begin_epoch()(content)
    state = load_state(content, path, identity, model, Adam(model.parameters()))
    assert state.epoch_progress.step == 1
    content = read_checkpoint(path)
    damage(content)
    with pytest.raises(PipelineError, match=message):
        load_state(content, path, identity, model, Adam(model.parameters()))
