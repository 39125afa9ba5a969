"""Model files: what rendering needs of a model, read and checked without torch.

Every value is checked before it is used, because a file may come from anywhere (`learn/archive` says why reading one
is safe). `learn/checkpoint` writes these files, and those of interrupted training runs, which have the same form.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_grain.base.errors import PipelineError, short_repr
from neural_grain.data.histogram import GrainHistogram, parse_histogram
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.settings import SpectrogramSettings, parse_spectrogram_settings
from neural_grain.learn.archive import read_archive
from neural_grain.learn.detector import NumpyDetector, texture_in_chunks, weight_shapes

CHECKPOINT_VERSION = 8
MAX_CHANNELS = 256  # the default model has 16
MAX_TEXT_LENGTH = 10_000  # characters of a text in a model, so that it can be shown
MAKE_AGAIN = "make it again with: python cak_grain_processor.py"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to render: its weights, the settings it was trained with, and reports in plain values.

    ``detect`` computes the detector, and ``grains`` is how the grain of the recordings of its library is distributed;
    None for an older model.
    """

    weights: dict[str, np.ndarray]
    channels: int
    settings: SpectrogramSettings
    training: dict
    audit: dict
    grains: GrainHistogram | None
    detect: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def generated_texture(self, analysis: Analysis) -> GeneratedTexture:
        """What is generated where a sound has no texture, as `GainField` wants it."""
        spectrum_db, crest_db = self.weights["spectrum_db"], float(self.weights["crest_db"])
        return texture_in_chunks(self.detect, spectrum_db, crest_db, analysis.tones_db, analysis.texture_db)


def load_model(path: Path) -> LoadedModel:
    """Read a final model for rendering on the CPU.

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
    weights = checked_weights(content, weight_shapes(settings, channels), path)
    training, audit = (_plain_values(content, name, path) for name in ("training", "audit"))
    grains = parse_histogram(content["grains"], f"{path}: grains") if "grains" in content else None
    return LoadedModel(weights, channels, settings, training, audit, grains, NumpyDetector(weights, settings))


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint without running any code in it; its tensors become arrays that can't be written to.

    Raises
    ------
    PipelineError
        If it is missing, damaged, of another version or not made by this program.
    """
    if not os.path.exists(path):
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    try:
        with path.open("rb") as file:
            content = read_archive(file)
    except Exception as err:  # the errors that a damaged or hostile file causes have no type in common
        raise PipelineError(f"{path}: not readable as a model; {MAKE_AGAIN}") from err
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version != CHECKPOINT_VERSION:
        raise PipelineError(f"{path}: is no model of version {CHECKPOINT_VERSION}; {MAKE_AGAIN}")
    return content


def checked_weights(content: dict, shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, np.ndarray]:
    """The weights of a checkpoint, after checking their names, shapes, types and values.

    Raises
    ------
    PipelineError
        If they are not of these shapes or not finite.
    """
    given = content.get("weights")
    fit = isinstance(given, dict) and given.keys() == shapes.keys()
    if not fit or not all(is_array(given[name], shape) for name, shape in shapes.items()):
        raise PipelineError(f"{path}: its weights do not fit the model; {MAKE_AGAIN}")
    if not all(np.isfinite(array).all() for array in given.values()):
        raise PipelineError(f"{path}: its weights are not finite; {MAKE_AGAIN}")
    return {name: np.asarray(array) for name, array in given.items()}


def is_array(value: object, shape: tuple[int, ...]) -> bool:
    """Whether a value is an array of this shape; all arrays of a checkpoint are float32."""
    return isinstance(value, np.ndarray) and value.shape == tuple(shape)


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
