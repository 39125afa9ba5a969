"""The worker without a window: its thread, its messages, and what makes it stop early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.app.processor import RenderTarget
from neural_grain.app.worker import (
    OPENING,
    FileOpened,
    Message,
    ModelLoaded,
    Pictured,
    Progress,
    RenderingDone,
    Worker,
    WorkFailed,
)

Wanted = TypeVar("Wanted", bound=Message)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(None, "cpu")
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


def test_a_rendering_that_is_done_keeps_no_audio_but_the_input(worker, tmp_path):
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-40), SR, "PCM_16")
    worker.open(path)
    opened = wait_for(worker, FileOpened)
    worker.render(opened, RenderTarget(1.0))
    rendering = wait_for(worker, RenderingDone).rendering
    assert rendering.sound is opened.analysis.sound
    assert rendering.achieved_octaves == pytest.approx(1.0, abs=0.02)


def test_an_unexpected_exception_is_reported_and_the_worker_continues(worker, tmp_path, monkeypatch):
    path = tmp_path / "drone.wav"
    sf.write(path, drone(-40), SR, "PCM_16")
    wait_for(worker, ModelLoaded)
    with monkeypatch.context() as patch:
        patch.setattr("neural_grain.app.worker.open_sound", lambda path: 1 / 0)
        worker.open(path)
        reason = wait_for(worker, WorkFailed).reason
    assert reason.startswith(
        "internal fault, please report it: ZeroDivisionError('division by zero') at test_worker.py:"
    )
    worker.open(path)
    assert wait_for(worker, FileOpened).y.shape == (3 * SR, 1)
