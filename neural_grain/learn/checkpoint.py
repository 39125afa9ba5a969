"""Checkpoints: models and interrupted training runs as files of tensors and plain values.

A file may come from anywhere. No code in it ever runs, it can't ask for more memory than its own size, and
every value is checked before it is used. Two kinds of content exist: a model (`model_content`, `load_model`)
holds all that rendering needs and is about 0.1 MB; the state of a run (`load_state`) holds the state of the
optimizer as well.
"""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.base.files import atomic_write
from neural_grain.data.histogram import GrainHistogram, parse_histogram
from neural_grain.data.tiles import TrainingPairs, group_copies
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.settings import SpectrogramSettings, parse_spectrogram_settings, settings_record
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel, generated_texture
from neural_grain.learn.settings import TrainOptions

CHECKPOINT_VERSION = 8
MAX_CHECKPOINT_BYTES = 1 << 26  # a model takes 0.1 MB, and its history 0.3 kB for each epoch
MAX_CHANNELS = 256  # the default model has 24
MAX_TEXT_LENGTH = 10_000  # characters of a text in a model, so that it can be shown
ALLOWED_NAMES = ("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict")
MAKE_AGAIN = "make it again with: python cak_grain_processor.py"


@dataclass
class EpochProgress:
    """How far an epoch is: all that a run needs to continue inside it exactly as if it had not been stopped."""

    step: int  # steps done
    random_state: dict  # of the NumPy generator that draws the batches
    scores: dict[str, list[float]]  # of each step, by column of training_history.csv


class RunState(NamedTuple):
    """Where an interrupted run stopped: the finished epochs, and the progress of an unfinished one."""

    history: list[EpochScores]
    epoch_progress: EpochProgress | None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to render: the network, the settings it was trained with, and reports in plain values.

    ``grains`` is how the grain of the recordings of its library is distributed; None for an older model.
    """

    model: GrainModel
    settings: SpectrogramSettings
    training: dict
    audit: dict
    grains: GrainHistogram | None = None

    def generated_texture(self, analysis: Analysis) -> GeneratedTexture:
        """What is generated where a sound has no texture, as `GainField` wants it."""
        return generated_texture(self.model, analysis.tones_db, analysis.texture_db)


def model_content(
    model: GrainModel, pairs: TrainingPairs, options: TrainOptions, history: list[EpochScores], audit: dict
) -> dict:
    """Everything that rendering needs, and what the model was trained on and how well it did."""
    recordings = group_copies(pairs)
    return {
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "channels": model.detector.mix.in_channels,
        "settings": settings_record(pairs.settings),
        "training": {
            **asdict(options),
            "epochs_done": len(history),
            "files": len(recordings),
            "tiles": len(pairs.tiles),
            "grain_spread_octaves": grain_spread_octaves(source.grain for source in pairs.sources),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "audit": audit,
        # Not a part of "training", of which versions before it was added refuse lists.
        "grains": asdict(GrainHistogram.of(pairs.sources[copies[0]].grain for copies in recordings)),
    }


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint (tensors, plain scalars, lists and dicts) in one atomic step."""
    buffer = io.BytesIO()  # torch.save to a file would store the file's name and hide why writing failed
    torch.save({"version": CHECKPOINT_VERSION, **content}, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint without running any code in it.

    Raises
    ------
    PipelineError
        If it is missing, damaged, of another version or not made by this program.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    try:
        with path.open("rb") as file:
            _check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # the errors that a damaged or hostile file causes have no type in common
        raise PipelineError(f"{path}: not readable as a model; {MAKE_AGAIN}") from err
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version != CHECKPOINT_VERSION:
        raise PipelineError(f"{path}: is no model of version {CHECKPOINT_VERSION}; {MAKE_AGAIN}")
    return content


def _check_archive(file: BinaryIO) -> None:
    """Refuse an archive that would take more memory than its own size, or that names anything but tensors."""
    import pickletools
    import zipfile

    n_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:  # torch's older format is not a zip file and is refused here
        records = archive.infolist()
        if n_bytes > MAX_CHECKPOINT_BYTES or sum(record.file_size for record in records) > n_bytes:
            raise ValueError("too large, or compressed")
        (pickled,) = (record for record in records if record.filename.endswith("data.pkl"))
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            is_name = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
            if is_name and argument not in ALLOWED_NAMES:  # torch also allows bytearray, which can be of any size
                raise ValueError(f"it names {argument}")
    file.seek(0)


def load_weights(model: GrainModel, content: dict, path: Path) -> None:
    """Give a model the weights of a checkpoint, after checking their names, shapes, types and values.

    Raises
    ------
    PipelineError
        If they don't fit the model or are not finite.
    """
    own, given = model.state_dict(), content.get("weights")
    fit = isinstance(given, dict) and own.keys() == given.keys()
    if not fit or not all(_is_like(given[name], tensor) for name, tensor in own.items()):
        raise PipelineError(f"{path}: its weights do not fit the model; {MAKE_AGAIN}")
    if not all(torch.isfinite(tensor).all() for tensor in given.values()):
        raise PipelineError(f"{path}: its weights are not finite; {MAKE_AGAIN}")
    model.load_state_dict(given)


def _is_like(value: object, tensor: Tensor) -> bool:
    """Whether a value is a tensor of the same shape and type."""
    return isinstance(value, Tensor) and value.shape == tensor.shape and value.dtype == tensor.dtype


def load_model(path: Path, device: str = "cpu") -> LoadedModel:
    """Read a final model for rendering.

    Raises
    ------
    PipelineError
        If the file is no usable model.
    """
    content = read_checkpoint(path)
    settings = parse_spectrogram_settings(content.get("settings"), f"{path}: settings")
    channels = content.get("channels")
    if not isinstance(channels, int) or not 1 <= channels <= MAX_CHANNELS:
        raise PipelineError(f"{path}: field channels is {short_repr(channels)}, not 1 to {MAX_CHANNELS}")
    model = GrainModel(settings, channels=channels)
    load_weights(model, content, path)
    training, audit = (_plain_values(content, name, path) for name in ("training", "audit"))
    grains = parse_histogram(content["grains"], f"{path}: grains") if "grains" in content else None
    return LoadedModel(model.to(device).eval(), settings, training, audit, grains)


def _plain_values(content: dict, name: str, path: Path) -> dict:
    """A report inside a model, checked: texts and numbers that are short enough to be shown."""
    values = content.get(name, {})
    if not isinstance(values, dict):
        raise PipelineError(f"{path}: field {name} is {short_repr(values)}, not a dict")
    for key, value in values.items():
        if isinstance(value, str):
            is_plain = len(value) < MAX_TEXT_LENGTH
        elif isinstance(value, int):
            is_plain = abs(value) < 2**63
        else:
            is_plain = isinstance(value, float | None)
        if not is_plain:
            raise PipelineError(f"{path}: {name}: field {short_repr(key)} is {short_repr(value)}")
    return values


def load_state(
    content: dict, path: Path, identity: str, model: GrainModel, optimizer: torch.optim.Optimizer
) -> RunState:
    """Put model and optimizer where an interrupted run left them.

    Parameters
    ----------
    content : what `read_checkpoint` read from ``path``
    identity : fingerprint of the run that wants to continue

    Raises
    ------
    PipelineError
        If the file is no checkpoint of this run.
    """
    if content.get("fingerprint") != identity:
        raise PipelineError(f"{path}: was made from other tiles or options; leave out --resume to start again")
    load_weights(model, content, path)
    try:
        _load_optimizer(optimizer, content["optimizer"]["state"], model)
        return RunState(_parse_history(content["history"]), _parse_progress(content["begun"]))
    except Exception as err:  # the errors that a damaged file causes have no type in common
        raise PipelineError(f"{path}: training can't continue from it; leave out --resume to start again") from err


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict, model: GrainModel) -> None:
    """Give Adam its moments, if there are any yet, after checking that they fit the weights and are finite."""
    state = {i: dict(values) for i, values in saved.items()}
    for i, weight in enumerate(model.parameters() if state else ()):
        expected = {"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
        for name, tensor in expected.items():
            if not _is_like(state[i][name], tensor) or not state[i][name].isfinite().all():
                raise ValueError(f"optimizer: {name} of weight {i}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _parse_history(rows: list[dict]) -> list[EpochScores]:
    """The finished epochs, checked."""
    history = [EpochScores(**row) for row in rows]
    if not all(isinstance(value, int | float) for row in history for value in vars(row).values()):
        raise ValueError("history")
    return history


def _parse_progress(values: dict | None) -> EpochProgress | None:
    """The progress of an unfinished epoch, checked."""
    if not values:
        return None
    progress = EpochProgress(**values)
    np.random.default_rng().bit_generator.state = progress.random_state  # raises an error if it is no such state
    scores = [score for of_column in progress.scores.values() for score in of_column]
    if not isinstance(progress.step, int) or not all(isinstance(score, float) for score in scores):
        raise ValueError("progress of the epoch")
    return progress
