"""Rendered files: what is known about one, which outputs are refused, and what is worth a warning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from neural_grain.app.targets import MAX_NAME_BYTES, RenderTarget
from neural_grain.audio.sound import Sound
from neural_grain.base.errors import PipelineError
from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.move import Rendering
from neural_grain.dsp.move_curve import CurveRendering


@dataclass(frozen=True)
class FileRendering:
    """A file that was rendered."""

    input: Path
    output: Path
    rendering: Rendering | CurveRendering | None  # None for a copy of a file that has no grain, such as silence
    left_behind: tuple[str, ...] = ()  # what the input holds besides samples and the output has no place for
    layer: str | None = None  # the part of the rendering that the output holds, None for all of it
    warnings: tuple[str, ...] = ()
    mix: Mix = NO_MIX


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Raise PipelineError if ``output`` is the input, a folder, too long a name, or exists and must not be replaced."""
    if len(os.fsencode(output.name)) > MAX_NAME_BYTES:
        raise PipelineError(f"{output}: the name is longer than {MAX_NAME_BYTES} bytes; give a shorter one")
    if os.path.exists(output):
        if output.samefile(source):
            raise PipelineError(f"{output}: is the input itself, which is never overwritten; choose another name")
        if os.path.isdir(output):
            raise PipelineError(f"{output}: is a folder; end it with / to write into it")
        if not overwrite:
            raise PipelineError(f"{output}: exists already; give --overwrite to replace it")


def rendering_warnings(target: RenderTarget, sound: Sound) -> tuple[str, ...]:
    """What is worth to be said about a target and the sound that it was rendered from."""
    duration_s = sound.n_samples / sound.sr
    if isinstance(target.curve, GrainCurve) and target.curve.end_s > duration_s:
        return (f"the curve goes on to {target.curve.end_s:g} s, the sound ends at {duration_s:.2f} s",)
    return ()
