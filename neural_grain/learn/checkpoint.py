"""Checkpoints: models and interrupted training runs as files of tensors and plain values.

Two kinds of content exist: a model (`model_content`) holds all that rendering needs and is about 0.1 MB; the state of
a run (`load_state`) holds the state of the optimizer as well. `learn/model_file` reads them, and checks every value
before it is used.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write
from neural_grain.data.histogram import GrainHistogram
from neural_grain.data.tiles import TrainingPairs, group_copies
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.settings import settings_record
from neural_grain.learn.adam import Adam
from neural_grain.learn.game import Judgement
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel, detect
from neural_grain.learn.model_file import CHECKPOINT_VERSION, LoadedModel, checked_weights, load_model
from neural_grain.learn.settings import TrainOptions


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


def load_weights(model: GrainModel, weights: dict[str, np.ndarray]) -> None:
    """Give a model weights that were checked."""
    # Copied, because torch can't keep arrays from being written to.
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})


def model_of(loaded: LoadedModel) -> GrainModel:
    """The network of a model that was read."""
    model = GrainModel(loaded.settings, channels=loaded.channels)
    load_weights(model, loaded.weights)
    return model.eval()


def load_on_device(path: Path, device: str) -> LoadedModel:
    """Read a final model for rendering with torch on a device, such as "cuda".

    Raises
    ------
    PipelineError
        If the file is no usable model.
    """
    loaded = load_model(path)
    return replace(loaded, detect=partial(detect, model_of(loaded).to(device)))


def load_state(content: dict, path: Path, identity: str, model: GrainModel, optimizer: Adam) -> RunState:
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
    found = content.get("fingerprint")
    if not isinstance(found, str) or found != identity:
        raise PipelineError(f"{path}: was made from other tiles or options; leave out --resume to start again")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    load_weights(model, checked_weights(content, shapes, path))
    try:
        optimizer.load(content["optimizer"]["state"])
        return RunState(_parse_history(content["history"]), _parse_progress(content["begun"]))
    except Exception as err:  # the errors that a damaged file causes have no type in common
        raise PipelineError(f"{path}: training can't continue from it; leave out --resume to start again") from err


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
    n_steps, columns = progress.step, {score.name for score in fields(Judgement)}
    if not isinstance(n_steps, int) or n_steps < 1 or progress.scores.keys() != columns:
        raise ValueError("progress of the epoch")
    for scores in progress.scores.values():
        if len(scores) != n_steps or not all(isinstance(score, float) and score >= 0 for score in scores):
            raise ValueError("scores of the epoch")
    return progress
