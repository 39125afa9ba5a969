"""Another model while a sound is open: what is kept, what is made anew, and that the sound plays on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, FakeDevice, drone
from test_worker import wait_for

from neural_grain.app.targets import RenderTarget
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.curve import GrainCurve
from neural_grain.session.messages import CurveEstimated, FileOpened, ModelSwitched, RenderingDone, WorkFailed
from neural_grain.session.mixer import Mixer
from neural_grain.session.model_shelf import MAX_MODELS, ModelShelf
from neural_grain.session.player import Player
from neural_grain.session.state import Session
from neural_grain.session.worker import Worker

MORE = -3.0  # where texture is generated, which models differ in


def changed_model(source: Path, path: Path, **changes: object) -> Path:
    """A model with other weights, or with other settings."""
    import torch

    content = torch.load(source, weights_only=True)
    if changes:
        content["settings"] |= changes
    else:
        generator = torch.Generator().manual_seed(0)
        weights = content["weights"]
        content["weights"] = {k: v + 0.3 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def models(project, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A model, one with other weights, and one with other settings."""
    folder = tmp_path_factory.mktemp("models")
    other = changed_model(project.model, folder / "other.pt")
    return project.model, other, changed_model(project.model, folder / "settings.pt", dynamic_range_db=90.0)


@pytest.fixture
def sound(tmp_path) -> Path:
    """A drone of pure tones, whose texture has to be generated."""
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-90, 3.0), SR, "PCM_24")
    return path


@pytest.fixture
def session(models) -> Iterator[Session]:
    worker = Worker(models[0], "cpu")
    worker.start()
    yield Session(worker)
    worker.close()


def wait_until_idle(session: Session) -> list[object]:
    """Handle messages until nothing is under way; returns them."""
    messages = []
    while session.n_tasks:
        messages.append(session.worker.messages.get(timeout=60))
        session.handle(messages[-1])
    return messages


def test_a_model_is_switched_without_a_new_analysis_and_back_without_loading(session, sound, models):
    session.open(sound)
    wait_until_idle(session)
    first = session.opened
    session.switch_model(models[1])
    (switched,) = [each for each in wait_until_idle(session) if isinstance(each, ModelSwitched)]
    assert not switched.is_reopened
    second = session.opened
    assert second.analysis is first.analysis
    assert second.y is first.y
    assert session.processor is not None
    assert session.worker.model_path == models[1]
    assert second.solver.estimate(MORE) != first.solver.estimate(MORE)
    session.switch_model(models[0])
    wait_until_idle(session)
    assert session.opened.solver is first.solver
    session.switch_model(None)
    wait_until_idle(session)
    assert session.processor.loaded is None
    assert session.opened.analysis is first.analysis
    assert not session.is_error


def test_each_model_measures_and_saves_what_it_makes_itself(session, sound, models, tmp_path):
    session.open(sound)
    target = RenderTarget(MORE, mix=replace(RenderTarget().mix, wet=0.8))
    rendered = []
    for model in (models[0], models[1]):
        session.switch_model(model)
        wait_until_idle(session)
        assert session.rendering is None
        assert session.is_unsaved(target)
        session.measure(target)
        output = tmp_path / f"{model.stem}.wav"
        session.save(sound, output, target)
        wait_until_idle(session)
        assert not session.is_unsaved(target)
        assert session.rendering.requested_octaves == MORE
        rendered.append(sf.read(output)[0])
    assert np.abs(rendered[0] - rendered[1]).max() > 1e-4
    session.switch_model(models[0])
    wait_until_idle(session)
    assert session.is_unsaved(target)
    session.save(sound, tmp_path / "again.wav", target)
    wait_until_idle(session)
    np.testing.assert_array_equal(sf.read(tmp_path / "again.wav")[0], rendered[0])


def test_other_settings_need_a_new_analysis(session, sound, models):
    session.open(sound)
    wait_until_idle(session)
    first = session.opened
    session.switch_model(models[2])
    (switched,) = [each for each in wait_until_idle(session) if isinstance(each, ModelSwitched)]
    assert switched.is_reopened
    assert session.opened is switched.opened
    assert session.opened.analysis is not first.analysis
    assert session.opened.analysis.settings.dynamic_range_db == 90


def test_a_model_that_cannot_be_read_leaves_the_one_in_use(session, sound, models, tmp_path):
    session.open(sound)
    wait_until_idle(session)
    opened, processor = session.opened, session.processor
    (tmp_path / "cut.pt").write_bytes(b"PK")
    for path in (tmp_path / "cut.pt", tmp_path / "none.pt"):
        session.switch_model(path)
        assert isinstance(wait_until_idle(session)[-1], WorkFailed)
        assert path.name in session.status
        assert (session.opened, session.processor, session.worker.model_path) == (opened, processor, models[0])
    session.measure(RenderTarget(-1.0))
    wait_until_idle(session)
    assert session.rendering.achieved_octaves == pytest.approx(-1.0, abs=0.05)


def test_a_curve_goes_on_with_another_model_and_its_seconds_are_measured_once(session, sound, models):
    target = RenderTarget(curve=GrainCurve(((0.5, MORE), (2.5, 1.0))))
    session.open(sound)
    wait_until_idle(session)
    session.estimate(target)
    wait_until_idle(session)
    before, solver = session.amounts(target), session.worker._models.curve_solver(session.opened.solver)
    session.switch_model(models[1])
    wait_until_idle(session)
    assert session.amounts(target) is before
    session.estimate(target)
    session.measure(target)
    wait_until_idle(session)
    assert session.amounts(target) is not before
    assert session.worker._models.curve_solver(session.opened.solver).seconds is solver.seconds
    session.switch_model(models[0])
    wait_until_idle(session)
    assert session.worker._models.curve_solver(session.opened.solver) is solver


def test_an_estimate_of_the_model_before_does_not_delay_another(session, models, tmp_path):
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(drone(-40), 5), SR, "PCM_16")
    session.open(path)
    wait_until_idle(session)
    session.worker.estimate(session.opened, GrainCurve(((0.0, -1.0), (9.0, 1.0))))
    session.worker.switch_model(models[1])
    assert wait_for(session.worker, CurveEstimated).amounts is None
    assert wait_for(session.worker, ModelSwitched).opened.path == path


def test_a_file_that_is_opened_while_a_model_is_switched_gets_that_model(session, sound, models):
    session.open(sound)
    session.switch_model(models[1])
    wait_until_idle(session)
    assert session.worker.model_path == models[1]
    assert session.opened.solver is session.worker._models.solver(session.opened.analysis, sound, session.opened.stamp)


def test_a_file_that_was_closed_is_not_opened_again_for_another_model(session, sound, models):
    session.open(sound)
    wait_until_idle(session)
    session.close_file()
    for model in (models[1], models[2]):  # the second has other settings
        session.switch_model(model)
        (switched,) = wait_until_idle(session)
        assert switched.opened is None
        assert session.opened is None
    session.open(sound)
    wait_until_idle(session)
    assert session.opened.analysis.settings.dynamic_range_db == 90


def test_the_shelf_keeps_a_few_models_and_reads_one_that_has_changed(models, tmp_path):
    shelf = ModelShelf("cpu", lambda: None)
    paths = []
    for i in range(MAX_MODELS + 1):
        paths.append(tmp_path / f"{i}.pt")
        paths[-1].write_bytes(models[0].read_bytes())
    processors = [shelf.load(path) for path in paths]
    assert shelf.current is processors[-1]
    assert shelf.load(paths[1]) is processors[1]
    assert shelf.load(paths[0]) is not processors[0]
    changed_model(models[0], paths[1])
    assert shelf.load(paths[1]) is not processors[1]
    with pytest.raises(PipelineError, match="no model there"):
        shelf.load(tmp_path / "none.pt")
    assert shelf.current is not None


def test_the_sound_plays_on_with_another_model_without_a_click_or_a_missing_block(session, sound, models):
    session.open(sound)
    wait_until_idle(session)
    opened = session.opened
    device, target = FakeDevice(), RenderTarget(MORE)
    player, mixer = Player(device), Mixer(opened.y, SR, opened.solver)
    mixer.loop((10_000, 100_000))
    mixer.set_amounts(session.amounts(target))
    assert player.play(mixer) == ""
    fields = []
    for model in (models[1], models[0], models[1]):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)
        session.switch_model(model)
        wait_until_idle(session)
        mixer.set_solver(session.opened.solver, session.amounts(target))
        while mixer.source is None or mixer.source.after.field is not session.opened.solver.field:
            time.sleep(0.01)
        fields.append(mixer.source.after.field)
        assert mixer.is_playing
    time.sleep(0.3)
    player.close()
    assert len(set(map(id, fields))) == 2
    assert mixer.underruns == 0
    played = np.concatenate(device.streams[0].heard)
    assert len(device.streams) == 1
    steps = np.abs(np.diff(played, axis=0)).max()
    assert steps < 3 * np.abs(np.diff(opened.y, axis=0)).max() + 2 / mixer.fade_samples
    assert not [thread for thread in threading.enumerate() if thread.name == "grain player"]


def test_a_solver_of_another_sound_is_refused(session, sound, models, tmp_path):
    session.open(sound)
    wait_until_idle(session)
    mixer = Mixer(session.opened.y, SR, session.opened.solver)
    other = tmp_path / "other.wav"
    sf.write(other, drone(-40), SR)
    session.open(other)
    wait_until_idle(session)
    with pytest.raises(ValueError, match=r"solver\.analysis must be the one that is played"):
        mixer.set_solver(session.opened.solver, None)


def test_a_rendering_of_the_model_before_is_not_taken_for_one_of_this(session, sound, models):
    session.open(sound)
    wait_until_idle(session)
    session.measure(RenderTarget(1.0))
    session.switch_model(models[1])
    messages = wait_until_idle(session)
    assert [type(each) for each in messages if isinstance(each, RenderingDone | ModelSwitched | FileOpened)] == [
        RenderingDone,
        ModelSwitched,
    ]
    assert session.rendering is None
