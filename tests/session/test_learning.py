"""Learning in the background: the three stages in processes of their own, which can be stopped at any moment."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import ROOT, SR, drone, write_bad_files, write_library

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import run_lock
from neural_grain.data.metadata import FileGrain, Metadata
from neural_grain.session.learning import (
    STAGES,
    FolderCounted,
    Learned,
    Learning,
    LearningEnd,
    LearningFailed,
    LearningStopped,
    LittleToLearn,
    Remark,
    StageProgress,
    StageStarted,
    count_in_background,
    doubts,
)
from neural_grain.session.messages import Message
from neural_grain.session.models import NamedModel, begin_model, list_models
from neural_grain.session.stage_process import NICENESS

EPOCHS = 2
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """The smallest library that something can be learned from, and a file that can't be read."""
    folder = write_library(tmp_path_factory.mktemp("sounds"), n_files=5, duration_s=1.0)
    (folder / "bad.wav").write_text("no audio")
    return folder


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


def follow(learning: Learning, act: Callable[[Message], object] = lambda message: None) -> list[Message]:
    """All messages until the end. ``act`` is called with each; a question is answered with yes."""
    messages: list[Message] = []
    while not messages or not isinstance(messages[-1], LearningEnd):
        messages.append(learning.messages.get(timeout=TIMEOUT_S))
        if isinstance(messages[-1], LittleToLearn):
            learning.go_on()
        act(messages[-1])
    return messages


def learn(model: NamedModel, act: Callable[[Message], object] = lambda message: None) -> LearningEnd:
    return follow(Learning(model, "cpu"), act)[-1]


@pytest.fixture(scope="module")
def undisturbed(sounds, tmp_path_factory) -> list[Message]:
    """The messages of a learning that nothing disturbs."""
    return follow(Learning(begin_model(tmp_path_factory.mktemp("undisturbed"), "a", [sounds], EPOCHS), "cpu"))


def weights(model: NamedModel) -> dict[str, torch.Tensor]:
    return torch.load(model.path, weights_only=True)["weights"]


class TestUndisturbed:
    def test_it_ends_with_a_model_and_its_audit(self, undisturbed, sounds):
        model = undisturbed[-1].model
        assert isinstance(undisturbed[-1], Learned)
        assert model.is_trained
        assert not model.is_unfinished
        assert (model.record.folders, model.record.epochs, model.record.n_files) == ((sounds,), EPOCHS, 5)
        assert "the slider is accurate to 0.05 octaves" in model.verdict
        assert model.audit_picture.is_file()
        assert list_models(model.folder.parent) == [model]

    def test_every_stage_reports_what_it_does_from_its_beginning_to_its_end(self, undisturbed):
        started = [message.index for message in undisturbed if isinstance(message, StageStarted)]
        assert started == [0, 1, 2]
        for index, stage in enumerate(STAGES):
            progress = [each for each in undisturbed if isinstance(each, StageProgress) and each.index == index]
            shares = [each.share for each in progress]
            assert shares == sorted(shares)
            assert (shares[0], shares[-1]) == (0.0, 1.0)
            assert {each.loop.doing for each in progress} == {doing for doing, _, _ in stage.loops}
            assert all(each.loop.left_s is not None for each in progress if each.loop.done)

    def test_it_asks_before_the_long_work_if_there_is_little_to_learn(self, undisturbed):
        asked = next(i for i, message in enumerate(undisturbed) if isinstance(message, LittleToLearn))
        assert "only 5 files" in undisturbed[asked].reasons[0]
        assert StageStarted(1) not in undisturbed[:asked]

    def test_a_file_that_can_not_be_used_is_named_and_the_others_are_learned_from(self, undisturbed):
        warnings = [message.text for message in undisturbed if isinstance(message, Remark) and message.is_warning]
        assert any("bad.wav: not readable as audio" in text for text in warnings)


def test_at_whatever_moment_it_is_stopped_or_killed_the_same_learning_can_be_continued(sounds, models, undisturbed):
    folder = begin_model(models, "a", [sounds], EPOCHS).folder

    def continued(index: int, act: Callable[[Learning], object], share: float | None = None) -> list[Message]:
        """Continue the model, and do something when a stage has started or has reached a share."""
        learning = Learning(list_models(models)[0], "cpu")

        def watch(message: Message) -> None:
            if share is None:
                is_there = message == StageStarted(index)
            else:
                is_there = isinstance(message, StageProgress) and message.index == index and message.share >= share
            if is_there:
                act(learning)

        messages = follow(learning, watch)
        with run_lock(folder / "learning.json"):  # nobody holds it any more
            assert not learning.process.is_alive
        return messages

    assert isinstance(continued(0, Learning.cancel)[-1], LearningStopped)
    assert isinstance(continued(1, Learning.cancel)[-1], LearningStopped)
    killed = continued(1, lambda learning: os.kill(learning.process.pid, signal.SIGKILL), share=0.0)[-1]
    assert isinstance(killed, LearningFailed)
    assert "ended from outside (signal 9)" in killed.reason
    assert isinstance(continued(2, Learning.cancel, share=0.3)[-1], LearningStopped)  # after the first epoch
    (model,) = list_models(models)
    assert (model.has_checkpoint, model.is_trained, model.is_unfinished) == (True, False, True)
    messages = continued(2, lambda learning: None)
    assert isinstance(messages[-1], Learned)
    totals = [m.loop.total for m in messages if isinstance(m, StageProgress) and m.loop.doing == "training"]
    assert all(total < EPOCHS for total in totals)  # the first epoch is not trained again
    expected = weights(undisturbed[-1].model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(messages[-1].model).items())


#: A program that learns, and prints the number of the process once that trains.
LEARNING_PROGRAM = """
import sys
from pathlib import Path
from neural_grain.session.learning import Learning, LittleToLearn, StageProgress
from neural_grain.session.models import list_models
learning = Learning(list_models(Path(sys.argv[1]))[0], "cpu")
while True:
    message = learning.messages.get()
    if isinstance(message, LittleToLearn):
        learning.go_on()
    if isinstance(message, StageProgress) and message.index == 2:
        print(learning.process.pid, flush=True)
"""


def test_no_stage_outlives_a_program_that_is_killed_and_a_checkpoint_of_no_use_does_not_block(sounds, models):
    begin_model(models, "a", [sounds], EPOCHS)
    program = subprocess.Popen(
        [sys.executable, "-c", LEARNING_PROGRAM, models], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    stage = int(program.stdout.readline())
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 60
    while is_running(stage):
        assert time.monotonic() < deadline, "the stage goes on"
        time.sleep(0.02)
    (model,) = list_models(models)
    assert not list(model.folder.rglob(".grain-*.part*"))

    checkpoint = model.output_folder / "checkpoints/latest.pt"  # it was made before the kill, or not yet
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"of another version")
    learning, trained = Learning(model, "cpu"), []

    def watch(message: Message) -> None:
        if isinstance(message, StageProgress) and message.index == 2 and not trained:
            trained.append(message)
            learning.cancel()

    assert isinstance(follow(learning, watch)[-1], LearningStopped)
    assert trained


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended but that nobody has waited for does not."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(status) and not status.startswith("Z")


def test_a_stage_has_a_lower_priority_than_the_program(sounds, models):
    learning = Learning(begin_model(models, "a", [sounds], EPOCHS), "cpu")
    niceness = []

    def watch(message: Message) -> None:
        if isinstance(message, StageProgress) and not niceness:
            niceness.append(os.getpriority(os.PRIO_PROCESS, learning.process.pid))
            learning.cancel()

    assert isinstance(follow(learning, watch)[-1], LearningStopped)
    assert niceness == [max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))]


class TestRefused:
    def failure(self, models: Path, folder: Path) -> str:
        """Why nothing can be learned from a folder, in one line."""
        end = learn(begin_model(models, "a", [folder], EPOCHS))
        assert isinstance(end, LearningFailed)
        assert "\n" not in end.reason
        assert list_models(models)[0].is_unfinished
        return end.reason

    def test_a_folder_that_has_vanished(self, models, tmp_path):
        assert self.failure(models, tmp_path / "gone") == f"{tmp_path / 'gone'}: no such file or folder"

    def test_a_folder_without_audio(self, models, tmp_path):
        (tmp_path / "texts").mkdir()
        assert "0 files found" in self.failure(models, tmp_path / "texts")

    def test_a_folder_without_a_file_that_can_be_read(self, models, tmp_path):
        write_bad_files(tmp_path / "bad")
        assert "could be measured" in self.failure(models, tmp_path / "bad")

    def test_fewer_recordings_than_a_model_needs_of_which_copies_do_not_count(self, models, tmp_path):
        for i in range(6):
            sf.write(tmp_path / f"{i}.wav", drone(-40, 0.5, seed=i // 2), SR)
        assert self.failure(models, tmp_path).startswith("only 3 different recordings")

    def test_a_model_that_is_being_learned_already(self, models, sounds):
        model = begin_model(models, "a", [sounds], EPOCHS)
        first, second = Learning(model, "cpu"), None
        while not isinstance(first.messages.get(timeout=TIMEOUT_S), LittleToLearn):
            pass
        second = follow(Learning(model, "cpu"))[-1]
        first.close()
        assert isinstance(second, LearningFailed)
        assert "another run is writing it" in second.reason
        assert not first.is_alive

    def test_a_model_whose_folder_has_vanished(self, models, sounds):
        model = begin_model(models, "a", [sounds], EPOCHS)
        (model.folder / "learning.json").unlink()
        model.folder.rmdir()
        end = learn(model)
        assert isinstance(end, LearningFailed)
        assert "can't write" in end.reason


def measured(grains: np.ndarray, duration_s: float = 60.0) -> Metadata:
    files = [FileGrain(Path(f"{i}.wav"), float(g), duration_s, SR, 1, 1, 1) for i, g in enumerate(grains)]
    return Metadata(files=tuple(files))


class TestDoubts:
    @pytest.mark.parametrize(
        ("n", "octaves", "words"),
        [
            (60, 6.0, ()),
            (30, 6.0, ()),  # stage 1 says that more are better, but nobody has to be asked
            (9, 6.0, ("only 9 files",)),
            (60, 0.5, ("hardly differ in grain",)),
            (9, 0.5, ("only 9 files", "hardly differ in grain")),
        ],
    )
    def test_there_are_some_if_files_are_very_few_or_much_alike(self, tmp_path, n, octaves, words):
        reasons = doubts(measured(np.geomspace(0.01, 0.01 * 2**octaves, n)), tmp_path)
        assert len(reasons) == len(words)
        assert all(word in reason for word, reason in zip(words, reasons, strict=True))

    def test_one_is_a_disk_that_is_too_small_for_the_tiles(self, tmp_path):
        (reason,) = doubts(measured(np.geomspace(1e-4, 0.5, 60), duration_s=1e12), tmp_path)
        assert "GB are free" in reason

    def test_too_few_are_refused(self, tmp_path):
        with pytest.raises(PipelineError, match="at least 4"):
            doubts(measured(np.array([0.1, 0.2, 0.3])), tmp_path)


def test_files_are_counted_in_the_background(sounds, tmp_path):
    messages: queue.Queue = queue.Queue()
    count_in_background(sounds, messages)
    assert messages.get(timeout=60) == FolderCounted(sounds, 6)
    count_in_background(tmp_path / "gone", messages)
    counted = messages.get(timeout=60)
    assert counted.n_files == 0
    assert "no such file or folder" in counted.fault
