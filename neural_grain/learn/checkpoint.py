"""TODO"""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.base.files import atomic_write
from neural_grain.data.tiles import TrainingPairs
from neural_grain.dsp.flatness import grain_spread_octaves
from neural_grain.dsp.settings import SpectrogramSettings, parse_spectrogram_settings, settings_record
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel, pattern_in_db
from neural_grain.learn.settings import TrainSettings

CHECKPOINT_VERSION = 6
CHECKPOINT_BYTES = 1 << 26  # at most; one takes 0.1 MB, and its history 0.3 kB an epoch
CHECKPOINT_NAMES = ("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict")


@dataclass
class EpochProgress:
    """How far an epoch is: what a run that was stopped inside it needs to go on just as it would have."""

    step: int
    random_state: dict
    scores: dict[str, list[float]]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to render: the network, the settings it was trained with, and its history in plain values."""

    model: GrainModel
    settings: SpectrogramSettings
    training: dict
    audit: dict

    def pattern_db(self, x: np.ndarray) -> np.ndarray:
        """Gain in dB for unit amount of smoothing and of texture, (2, n_mels, cells), of the picture ``x``."""
        return pattern_in_db(self.model, x, self.settings)


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint (tensors, plain scalars, lists and dicts) so that it is never half there."""
    buffer = io.BytesIO()  # into a file torch would write its name too, and would not say why it can't
    torch.save({"version": CHECKPOINT_VERSION, **content}, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint; no code in it ever runs.

    Raises
    ------
    PipelineError
        If it is missing, damaged, of another version or not one of ours.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    try:
        with path.open("rb") as file:
            _check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # what a damaged or hostile file makes the unpickler raise has no type in common
        raise PipelineError(
            f"{path}: not readable as a model; make it again with: python cak_grain_processor.py"
        ) from err
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version != CHECKPOINT_VERSION:
        raise PipelineError(
            f"{path}: is no model of version {CHECKPOINT_VERSION}; make it again with: python cak_grain_processor.py"
        )
    return content


def _check_archive(file: BinaryIO) -> None:
    """Refuse an archive that asks for more memory than its own size: torch unpacks whatever it is given."""
    import pickletools
    import zipfile

    n_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:  # as torch.save writes it; the older format is not read at all
        records = archive.infolist()
        if n_bytes > CHECKPOINT_BYTES or sum(record.file_size for record in records) > n_bytes:
            raise ValueError("too large, or compressed")
        (pickled,) = (record for record in records if record.filename.endswith("data.pkl"))
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            is_name = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
            if is_name and argument not in CHECKPOINT_NAMES:  # torch lets more through: a bytearray of any size
                raise ValueError(f"it names {argument}")
    file.seek(0)


def load_weights(model: GrainModel, content: dict, path: Path) -> None:
    """Give a model the weights of a checkpoint, after checking names, shapes, types and values.

    Raises
    ------
    PipelineError
        If they don't fit the model or are not finite.
    """
    own, given = model.state_dict(), content.get("weights")
    fit = isinstance(given, dict) and own.keys() == given.keys()
    if not fit or not all(_is_like(given[name], tensor) for name, tensor in own.items()):
        raise PipelineError(
            f"{path}: its weights do not fit the model; make it again with: python cak_grain_processor.py"
        )
    if not all(torch.isfinite(tensor).all() for tensor in given.values()):
        raise PipelineError(f"{path}: its weights are not finite; make it again with: python cak_grain_processor.py")
    model.load_state_dict(given)


def _is_like(value: object, tensor: Tensor) -> bool:
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
    if not isinstance(channels, int) or not 1 <= channels <= 256:
        raise PipelineError(f"{path}: field channels is {short_repr(channels)}, not 1 to 256")
    model = GrainModel(settings, channels)
    load_weights(model, content, path)
    told = [_plain_values(content, name, path) for name in ("training", "audit")]
    return LoadedModel(model.to(device).eval(), settings, *told)


def _plain_values(content: dict, name: str, path: Path) -> dict:
    """What a model tells of itself: texts and numbers of a size that can be shown."""
    values = content.get(name, {})
    if not isinstance(values, dict):
        raise PipelineError(f"{path}: field {name} is {short_repr(values)}, not a dict")
    for key, value in values.items():
        is_text, is_whole = isinstance(value, str), isinstance(value, int)
        is_good = (
            len(value) < 10_000 if is_text else abs(value) < 2**63 if is_whole else isinstance(value, float | None)
        )
        if not is_good:
            raise PipelineError(f"{path}: {name}: field {short_repr(key)} is {short_repr(value)}")
    return values


def load_state(
    content: dict, path: Path, identity: str, model: GrainModel, optimizer: torch.optim.Optimizer
) -> tuple[list[EpochScores], EpochProgress | None]:
    """Put model and optimizer where an interrupted run left them; what it had scored, and how far its epoch was.

    Parameters
    ----------
    content : what `read_checkpoint` read from ``path``
    identity : `fingerprint` of this run

    Raises
    ------
    PipelineError
        If the file is no checkpoint of this run.
    """
    if content.get("fingerprint") != identity:
        raise PipelineError(f"{path}: was made from other tiles or options; leave out --resume to start again")
    load_weights(model, content, path)
    try:
        state = {i: dict(values) for i, values in content["optimizer"]["state"].items()}
        for i, weight in enumerate(model.parameters() if state else ()):
            like = {"step": torch.tensor(0.0), "exp_avg": weight, "exp_avg_sq": weight}
            if not all(
                _is_like(state[i][name], tensor) and state[i][name].isfinite().all() for name, tensor in like.items()
            ):
                raise ValueError(f"optimizer state {i}")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        history = [EpochScores(**row) for row in content["history"]]
        if not all(isinstance(value, int | float) for row in history for value in vars(row).values()):
            raise ValueError("history")
        begun = EpochProgress(**content["begun"]) if content["begun"] else None
        if begun:
            np.random.default_rng().bit_generator.state = begun.random_state
            values = [value for scores in begun.scores.values() for value in scores]
            if not isinstance(begun.step, int) or not all(isinstance(value, float) for value in values):
                raise ValueError("begun")
    except Exception as err:  # as above: what can be wrong with it has no type in common
        raise PipelineError(f"{path}: can't be gone on with; leave out --resume to start again") from err
    return history, begun


def model_content(
    model: GrainModel, pairs: TrainingPairs, settings: TrainSettings, history: list[EpochScores], audit: dict
) -> dict:
    """Everything needed to render, and where it comes from; no optimiser state."""
    return {
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "channels": model.detector.mix.in_channels,
        "settings": settings_record(pairs.settings),
        "training": {
            **asdict(settings),
            "epochs_done": len(history),
            "files": len(pairs.sources),
            "tiles": len(pairs.tiles),
            "grain_spread_octaves": grain_spread_octaves(source.grain for source in pairs.sources),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "audit": audit,
    }
