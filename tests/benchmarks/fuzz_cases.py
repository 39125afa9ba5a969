"""What benchmarks/fuzz.py does with each kind of hostile file: the projects they are put into, and the work on them.

`KINDS` maps the name of a kind to the number of its mutants by default and to a function that makes the cases. The work
is that of the commands and of the window, called as functions: a command in a process of its own would take seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from benchmarks.audio_mutants import SR, mutants, whole_sound
from benchmarks.document_mutants import damaged_curve, damaged_json, damaged_lines
from benchmarks.model_mutants import damaged_array, damaged_model
from benchmarks.sandbox import Case, run_command, run_guarded
from conftest import write_library

import convert_to_spectrograms as stage2
import measure_audio_grain as stage1
import neural_audio_processor as stage4
from neural_grain.app.batch_log import BatchLog
from neural_grain.app.plan import jobs_in_folder, plan_batch
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import Job, RenderTarget, read_curve
from neural_grain.base.errors import PipelineError
from neural_grain.base.progress import MARK, LoopProgress, read_progress
from neural_grain.data.histogram import GrainHistogram
from neural_grain.data.metadata import FileGrain, read_metadata
from neural_grain.data.tiles import read_pairs
from neural_grain.dsp.curve import FittedCurve, format_curve, parse_curve
from neural_grain.dsp.settings import GrainSettings, default_settings, settings_record
from neural_grain.learn.adam import Adam
from neural_grain.learn.checkpoint import load_on_device, load_state, save_checkpoint
from neural_grain.learn.dataset import fingerprint, load_library
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel
from neural_grain.learn.model_file import load_model, read_checkpoint
from neural_grain.learn.settings import AUDIT_NAME, AUDIT_VERSION, FINAL_NAME, LATEST_NAME, TrainOptions
from neural_grain.session.models import LOCAL_NAME, RECORD_NAME, begin_model, list_models, read_model
from neural_grain.session.preferences import Preferences, Preset, read_preferences, write_preferences

MODEL = f"grain_processor_v2_output/{FINAL_NAME}"
LATEST = f"grain_processor_v2_output/{LATEST_NAME}"
SOUND = "Drone/Static/sound 00.wav"
LOG = "out/grain_renderings.jsonl"
SETTINGS = default_settings(GrainSettings())
POSITIONS = (0.0, -1.0)  # a copy and a rendering


@dataclass(frozen=True)
class Bases:
    """Projects that are copied for each case."""

    folder: Path  # for temporary files
    sounds: Path  # some sounds with metadata.json
    tiles: Path  # the same after stage 2
    models: Path  # a sound, a model, an interrupted training, and what the window keeps
    processor: GrainProcessor

    @classmethod
    def make(cls, folder: Path, model: Path | None) -> Bases:
        """Make them; ``model`` is one that was trained, or None for initial weights."""
        sounds, tiles, models = folder / "sounds", folder / "tiles", folder / "models"
        write_library(sounds, 4, 0.4)
        _expect_used(run_command(stage1.main, ["-j", "1"], sounds))
        shutil.copytree(sounds, tiles)
        _expect_used(run_command(stage2.main, ["-j", "1", "--no-images"], tiles))
        (models / SOUND).parent.mkdir(parents=True)
        shutil.copyfile(sounds / SOUND, models / SOUND)
        (models / "curve.txt").write_text("0 0\n0.4 -1\n")
        (models / LATEST).parent.mkdir(parents=True)
        if model is not None:
            shutil.copyfile(model, models / MODEL)
        else:
            save_checkpoint(models / MODEL, model_content())
        save_checkpoint(models / LATEST, training_content())
        processor = GrainProcessor.load(models / MODEL, "cpu")
        processor.threads = 1
        processor.render(whole_sound(), SR, grain=-1.0)  # imports everything, so that the processes need not do it
        return cls(folder, sounds, tiles, models, processor)


def _expect_used(word: str) -> None:
    if word != "used":
        raise RuntimeError(f"a base can't be made: {word}")


def model_content() -> dict:
    """A model with initial weights; what a model has learned does not matter here."""
    model = GrainModel(SETTINGS)
    return {"weights": model.state_dict(), "channels": model.detector.mix.in_channels,
            "settings": settings_record(SETTINGS), "training": {"epochs": 3}, "audit": {"verdict": "none"},
            "grains": asdict(GrainHistogram.of([0.001, 0.004, 0.02]))}  # fmt: skip


def training_content() -> dict:
    """An interrupted training after one step and one epoch."""
    model = GrainModel(SETTINGS)
    optimizer = Adam(model.parameters())
    model(torch.rand(1, 128, 8), torch.rand(1, 128, 8), torch.ones(1)).square().mean().backward()
    optimizer.step()
    scores = {field.name: 1 if field.name == "epoch" else 0.5 for field in fields(EpochScores)}
    return {"weights": model.state_dict(), "optimizer": {"state": optimizer.state()}, "history": [scores],
            "begun": None, "fingerprint": "x"}  # fmt: skip


def audio_cases(bases: Bases, n: int, seed: int) -> Iterator[Case]:
    """Damaged audio through stages 1, 2 and 4."""
    for i, mutant in enumerate(mutants(bases.folder, n, seed)):
        name = f"{i:05d}.{mutant.extension}"
        work = partial(_use_audio, name=name, processor=bases.processor)
        yield Case(mutant.extension, mutant.damage, name, mutant.data, None, work)


def _use_audio(project: Path, name: str, processor: GrainProcessor) -> tuple[str, ...]:
    path = project / name
    return (
        run_guarded(lambda: _measure_and_convert(path, project)),
        run_guarded(lambda: _render(path, project, processor)),
    )


def _measure_and_convert(path: Path, folder: Path) -> str:
    item = stage1.measure_file(path, SETTINGS.grain)
    if not isinstance(item, FileGrain):
        return f"refused: {item.reason}"
    if not 0 < item.grain <= 1:
        return f"traceback: grain is {item.grain}"
    (folder / "arrays").mkdir(parents=True)
    converted = stage2.convert_file(item, SETTINGS, folder, path.parent, None)
    return f"refused: {converted.reason}" if hasattr(converted, "reason") else "used"


def _render(path: Path, folder: Path, processor: GrainProcessor) -> str:
    for octaves in POSITIONS:
        result = processor.render_file(path, folder / f"{octaves}.wav", RenderTarget(octaves))
        if octaves and not np.isfinite(sf.read(result.output)[0]).all():
            return "traceback: it wrote NaN"
    return "used"


def document_cases(bases: Bases, n: int, seed: int) -> Iterator[Case]:
    """Damaged JSON documents: those of the stages, of the window, of batches and of a learning in progress."""
    window = bases.folder / "window.json"
    write_preferences(window, Preferences("/x", "/x/a.pt", volume=0.5, recent=["/x/a.wav"],
                                          presets=[Preset("a", 1.0, ((0.0, 1.0), (1.0, -1.0)))]))  # fmt: skip
    learned = begin_model(bases.folder / "named", "a", [bases.sounds / "Drone"], 3)
    audit = {
        "version": AUDIT_VERSION,
        "summary": {"verdict": "good", "files": 3},
        "rows": [{"file": "a", "asked": 1.0}],
    }
    documents = [
        ("metadata.json", bases.sounds, _read(bases.sounds / "metadata.json"), _use_metadata, 6),
        ("training_pairs.json", bases.tiles, _read(bases.tiles / "training_pairs.json"), _use_pairs, 5),
        (f"grain_processor_v2_output/{Path(AUDIT_NAME).name}", bases.models, audit, _use_model_folder, 2),
        (RECORD_NAME, bases.models, _read(learned.folder / RECORD_NAME), _use_model_folder, 2),
        ("window.json", None, _read(window), _use_preferences, 2),
        (LOG, bases.models, _batch_records(bases), _use_log, 2),
        ("progress", None, json.loads(str(LoopProgress("training", 3, 9, 2.0)).removeprefix(MARK)), _use_progress, 1),
    ]
    rng = np.random.default_rng([seed, 1])
    turns = [document for document in documents for _ in range(document[-1])]
    for i in range(n):
        name, base, content, work, _ = turns[i % len(turns)]
        damage, data = damaged_lines(content, rng) if name == LOG else damaged_json(content, rng)
        yield Case(Path(name).name, damage, name, data, base, work)


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def _batch_records(bases: Bases) -> list[dict]:
    """What a batch log holds after one rendering that is done and one that was begun."""
    project = bases.folder / "batch"
    shutil.copytree(bases.models, project)
    (project / "out").mkdir()
    log = BatchLog(project / "out", project / MODEL, None)
    for octaves in (1.0, 2.0):
        (job,) = jobs_in_folder({project / SOUND: (project / SOUND).parent}, [RenderTarget(octaves)], project / "out")
        log.add(job, is_done=False)
        if octaves == 1.0:
            shutil.copyfile(job.source, job.output)
            log.add(job, is_done=True)
    return [json.loads(line) for line in (project / LOG).read_text().splitlines()]


def _use_metadata(project: Path) -> tuple[str, ...]:
    converted = run_guarded(lambda: run_command(stage2.main, ["-j", "1", "--no-images"], project))
    measured = run_guarded(lambda: run_command(stage1.main, ["-j", "1"], project))
    return converted, measured, run_guarded(lambda: _is_repaired(measured, read_metadata, project / "metadata.json"))


def _use_pairs(project: Path) -> tuple[str, ...]:
    path = project / "training_pairs.json"
    learned = run_guarded(lambda: _load_library(path))
    converted = run_guarded(lambda: run_command(stage2.main, ["-j", "1", "--no-images"], project))
    return learned, converted, run_guarded(lambda: _is_repaired(converted, read_pairs, path))


def _is_repaired(word: str, read: Callable[[Path], object], path: Path) -> str:
    """After a stage has made its document again, the document must be good."""
    if word == "used":
        read(path)
    return "used"


def _load_library(path: Path) -> str:
    pairs = read_pairs(path)
    load_library(pairs, seed=0)
    fingerprint(pairs, TrainOptions())
    return "used"


def _use_model_folder(project: Path) -> tuple[str, ...]:
    def step() -> str:
        list_models(project.parent, project)
        model = read_model(LOCAL_NAME, project)
        if len(model.verdict.splitlines()) > 1:
            return "traceback: a verdict of several lines"
        if model.is_unfinished:
            begin_model(project.parent, project.name, [project / "Drone"], 3)
        return "used"

    return (run_guarded(step),)


def _use_preferences(project: Path) -> tuple[str, ...]:
    def step() -> str:
        preferences = read_preferences(project / "window.json")
        write_preferences(project / "window.json", preferences)
        return "used" if read_preferences(project / "window.json") == preferences else "traceback: not read as written"

    return (run_guarded(step),)


def _use_log(project: Path) -> tuple[str, ...]:
    def step() -> str:
        plan = plan_batch([project / "Drone", project / "out"], [RenderTarget(1.0)], "out/")
        log = BatchLog(project / "out", project / MODEL, None)
        for job in [*plan.jobs, Job(project / SOUND, project / "out/x.wav", RenderTarget(1.0))]:
            if log.has(job):
                return "traceback: a rendering that is not there counts as done"
            log.owns(job)
            log.taken([job])
            log.add(job, is_done=False)
        return "used"

    rendered = ["Drone", "--grain", "1", "-o", "out/", "--model", MODEL]
    return run_guarded(step), run_guarded(lambda: run_command(stage4.main, rendered, project))


def _use_progress(project: Path) -> tuple[str, ...]:
    def step() -> str:
        for line in (project / "progress").read_bytes().decode("utf-8", "replace").splitlines():
            if progress := read_progress(MARK + line):
                assert 0 <= progress.share <= 1
        return "used"

    return (run_guarded(step),)


def curve_cases(bases: Bases, n: int, seed: int) -> Iterator[Case]:
    """Damaged curves, on the command line and in the window."""
    rng = np.random.default_rng([seed, 2])
    for i in range(n):
        damage, data = damaged_curve(rng)
        yield Case("curve", damage, "curve.txt", data, bases.models, partial(_use_curve, fits=bool(i % 2)))


def _use_curve(project: Path, fits: bool) -> tuple[str, ...]:
    def step() -> str:
        curve = read_curve(project / "curve.txt")
        if not np.isfinite(FittedCurve(curve).for_duration(2.0).octaves_at(np.linspace(0, 2, 9))).all():
            return "traceback: not finite"
        return "used" if _is_readable(format_curve(curve)) else "traceback: not read as written"

    options = [SOUND, "--curve", "curve.txt", "-o", "x.wav", "--model", MODEL] + ["--curve-fit"] * fits
    return run_guarded(step), run_guarded(lambda: run_command(stage4.main, options, project))


def _is_readable(text: str) -> bool:
    """Whether what the window writes for a curve is read as the same curve."""
    try:
        return format_curve(parse_curve(text)) == text
    except PipelineError:
        return False


def model_cases(bases: Bases, n: int, seed: int) -> Iterator[Case]:
    """Damaged and malicious model files, read without torch and with it, and interrupted trainings."""
    rng = np.random.default_rng([seed, 3])
    files = {
        name: ((bases.models / name).read_bytes(), torch.load(bases.models / name, weights_only=True))
        for name in (MODEL, LATEST)
    }
    for i in range(n):
        name = LATEST if i % 4 == 3 else MODEL
        damage, data = damaged_model(*files[name], rng)
        yield Case(Path(name).name, damage, name, data, bases.models, _resume if name == LATEST else _use_model)


def _use_model(project: Path) -> tuple[str, ...]:
    options = [SOUND, "--grain", "-1", "-o", "x.wav", "--model", MODEL]
    return (
        run_guarded(lambda: run_command(stage4.main, options, project)),
        run_guarded(lambda: _render_with_torch(project)),
    )


def _render_with_torch(project: Path) -> str:
    if len(str(load_model(project / MODEL).audit)) > 100_000:
        return "traceback: a report too long to show"
    processor = GrainProcessor(load_on_device(project / MODEL, "cpu"), threads=1)
    z = processor.render(whole_sound(), SR, grain=-1.0)
    return "used" if np.isfinite(z).all() else "traceback: it rendered NaN"


def _resume(project: Path) -> tuple[str, ...]:
    def step() -> str:
        model = GrainModel(SETTINGS)
        optimizer = Adam(model.parameters())
        load_state(read_checkpoint(project / LATEST), project / LATEST, "x", model, optimizer)
        model(torch.rand(1, 128, 8), torch.rand(1, 128, 8), torch.ones(1)).square().mean().backward()
        optimizer.step()
        return "used"

    return (run_guarded(step),)


def array_cases(bases: Bases, n: int, seed: int) -> Iterator[Case]:
    """Damaged arrays of tiles, which stage 3 reads and stage 2 keeps or makes again."""
    rng = np.random.default_rng([seed, 4])
    arrays = sorted((bases.tiles / "spectrograms/arrays").iterdir())
    for _ in range(n):
        path = arrays[rng.integers(len(arrays))]
        damage, data = damaged_array(path.read_bytes(), rng)
        kind = "texture" if ".texture" in path.name else "array"
        yield Case(kind, damage, str(path.relative_to(bases.tiles)), data, bases.tiles, _use_pairs)


@dataclass(frozen=True)
class Kind:
    """A kind of hostile file: how many there are by default, and what makes the cases of so many with a seed."""

    n: int
    cases: Callable[[Bases, int, int], Iterator[Case]]


KINDS = {
    "audio": Kind(10_000, audio_cases),
    "documents": Kind(2_000, document_cases),
    "curves": Kind(500, curve_cases),
    "models": Kind(500, model_cases),
    "arrays": Kind(200, array_cases),
}
