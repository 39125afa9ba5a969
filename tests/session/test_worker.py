"""The worker without a window: its thread, its messages, and what makes it stop early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyloudnorm
import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.app.targets import RenderTarget
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.session.messages import (
    CurveEstimated,
    FileOpened,
    Message,
    ModelLoaded,
    Pictured,
    Progress,
    RenderingDone,
    WorkCancelled,
    WorkFailed,
)
from neural_grain.session.opening import OPENING
from neural_grain.session.worker import PREPARING, Worker

Wanted = TypeVar("Wanted", bound=Message)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(None, "cpu")
    worker.start()
    yield worker
    worker.close()
    assert not worker.is_alive


def wait_for(worker: Worker, kind: type[Wanted]) -> Wanted:
    """The next message of a kind; the only others may be those on the way to it."""
    while not isinstance(message := worker.messages.get(timeout=60), kind):
        assert isinstance(message, ModelLoaded | Progress | Pictured), message
    return message


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_a_rendering_stops_when_the_slider_leaves_its_position(worker, tmp_path, is_abandoned):
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(drone(-40), 5), SR, "PCM_16")
    worker.open(path)
    opened = wait_for(worker, FileOpened)
    worker.render(opened, RenderTarget(1.0))
    if is_abandoned:
        worker.abandon_rendering()
    done = wait_for(worker, RenderingDone)
    assert done.opened is opened
    assert (done.rendering is None) == is_abandoned


def test_the_progress_of_opening_rises_once_through_all_readings(worker, tmp_path):
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(drone(-40), 20), SR, "PCM_16")
    worker.open(path)
    progress = []
    while not isinstance(message := worker.messages.get(timeout=60), FileOpened):
        progress += [message] if isinstance(message, Progress) else []
    shares = [each.share for each in progress]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.05)
    assert np.diff(shares).max() < 0.1
    assert list(dict.fromkeys(each.text for each in progress)) == [each.activity for each in OPENING]


def test_the_picture_that_comes_first_is_that_of_the_analysis(worker, tmp_path):
    path = tmp_path / "drone.wav"
    sf.write(path, np.stack([drone(-40), drone(-30, seed=1)], axis=1), SR, "PCM_16")
    worker.open(path)
    while not isinstance(message := worker.messages.get(timeout=60), Pictured):
        assert not isinstance(message, FileOpened)
    opened = wait_for(worker, FileOpened)
    inside = slice(4, -4)  # the padding of the analysis also depends on the texture
    np.testing.assert_allclose(message.picture.x[:, inside], opened.analysis.x[:, inside], atol=1e-5)


def test_overview_and_loudness_come_with_the_file(worker, tmp_path):
    path = tmp_path / "drone.wav"
    y = np.stack([drone(-40), drone(-30, seed=1)], axis=1)
    sf.write(path, y, SR, "FLOAT")
    worker.open(path)
    while not isinstance(message := worker.messages.get(timeout=60), Pictured):
        assert not isinstance(message, FileOpened)
    opened = wait_for(worker, FileOpened)
    assert message.facts.overview is opened.facts.overview
    assert message.facts.overview.shape[0] == 2
    assert (message.facts.overview.min(), message.facts.overview.max()) == (opened.y.min(), opened.y.max())
    meter = pyloudnorm.Meter(SR, "DeMan")
    assert opened.facts.loudness_lufs == pytest.approx(meter.integrated_loudness(y), abs=0.02)


def test_a_rendering_that_is_done_keeps_no_audio_but_the_input(worker, tmp_path):
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-40), SR, "PCM_16")
    worker.open(path)
    opened = wait_for(worker, FileOpened)
    worker.render(opened, RenderTarget(1.0))
    rendering = wait_for(worker, RenderingDone).rendering
    assert rendering.sound is opened.analysis.sound
    assert rendering.achieved_octaves == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("target", [RenderTarget(-1.0), RenderTarget(curve=GrainCurve(((0.5, -1.0), (2.5, 1.0))))])
def test_another_mix_is_measured_without_moving_the_sound_again(worker, tmp_path, monkeypatch, target):
    opened = opened_file(worker, tmp_path, 0.5 * drone(-40))
    worker.render(opened, target)
    wet = wait_for(worker, RenderingDone).rendering
    for name in ("move_grain", "move_along"):
        monkeypatch.setattr(f"neural_grain.session.worker.{name}", lambda *args, **options: pytest.fail("moved again"))
    for mix in (Mix(0.5), Mix(0.5, -6.0), Mix(0.0), NO_MIX):
        worker.render(opened, replace(target, mix=mix))
        rendering = wait_for(worker, RenderingDone).rendering
        assert rendering.mix == mix
        assert rendering.amounts is wet.amounts
        assert rendering.sound is opened.analysis.sound
        assert rendering.level_db == pytest.approx(mix.gain_db, abs=0.5)
    assert rendering == wet


def opened_file(worker: Worker, folder: Path, y: np.ndarray) -> FileOpened:
    path = folder / "sound.wav"
    sf.write(path, y, SR, "PCM_16")
    worker.open(path)
    return wait_for(worker, FileOpened)


def test_of_several_curves_the_last_is_estimated_and_then_measured_close_to_the_estimate(worker, tmp_path):
    opened = opened_file(worker, tmp_path, drone(-40))
    curves = [GrainCurve(((0.5, octaves), (2.5, -octaves))) for octaves in (1.0, 1.2, 1.4)]
    worker.estimate(opened, None)
    for curve in curves:
        worker.estimate(opened, curve)
    worker.render(opened, RenderTarget(curve=curves[-1]))
    assert [wait_for(worker, CurveEstimated).amounts for _ in range(3)] == [None, None, None]
    estimated = wait_for(worker, CurveEstimated).amounts
    rendering = wait_for(worker, RenderingDone).rendering
    assert rendering.curve == curves[-1]
    assert rendering.sound is opened.analysis.sound
    assert rendering.contour.errors().max() < 0.05
    np.testing.assert_allclose(estimated.texture_db, rendering.amounts.texture_db, atol=1.0)


def test_a_constant_curve_is_estimated_as_its_position_of_the_slider(worker, tmp_path):
    opened = opened_file(worker, tmp_path, drone(-40))
    worker.estimate(opened, GrainCurve(((1.0, -1.0),)))
    assert wait_for(worker, CurveEstimated).amounts == opened.solver.estimate(-1.0)


def test_preparing_a_curve_can_be_cancelled_and_goes_on_from_there(worker, tmp_path):
    opened = opened_file(worker, tmp_path, np.tile(drone(-40), 5))
    worker.estimate(opened, None)
    while wait_for(worker, Progress).share < 0.3:
        pass
    worker.render(opened, RenderTarget(curve=GrainCurve(((0.0, -1.0), (9.0, 1.0)))))
    worker.cancel()
    wait_for(worker, WorkCancelled)
    assert wait_for(worker, RenderingDone).rendering is None  # it would have prepared the same
    worker.estimate(opened, None)
    progress = wait_for(worker, Progress)
    assert progress.text == PREPARING
    assert progress.share >= 0.3
    wait_for(worker, CurveEstimated)


def test_preparing_a_curve_stops_when_another_file_is_opened(worker, tmp_path):
    opened = opened_file(worker, tmp_path, np.tile(drone(-40), 5))
    worker.estimate(opened, GrainCurve(((0.0, -1.0), (9.0, 1.0))))
    wait_for(worker, Progress)
    worker.open(opened.path)
    assert wait_for(worker, CurveEstimated).amounts is None
    assert wait_for(worker, FileOpened).path == opened.path


def test_too_little_memory_is_said_in_plain_words(worker, tmp_path, monkeypatch):
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-40), SR, "PCM_16")
    wait_for(worker, ModelLoaded)
    monkeypatch.setattr("neural_grain.session.opening.scratch_array", lambda shape: np.empty(1 << 50))
    worker.open(path)
    assert wait_for(worker, WorkFailed).reason.startswith("there is not enough memory")


def test_an_unexpected_exception_is_reported_and_the_worker_continues(worker, tmp_path, monkeypatch):
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-40), SR, "PCM_16")
    wait_for(worker, ModelLoaded)
    with monkeypatch.context() as patch:
        patch.setattr("neural_grain.session.opening.open_sound", lambda path: 1 / 0)
        worker.open(path)
        reason = wait_for(worker, WorkFailed).reason
    assert reason.startswith(
        "internal fault, please report it: ZeroDivisionError('division by zero') at test_worker.py:"
    )
    worker.open(path)
    assert wait_for(worker, FileOpened).y.shape == (3 * SR, 1)
