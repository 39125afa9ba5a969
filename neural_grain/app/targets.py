"""What a rendering shall reach, where that comes from, and the default name of its output."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from neural_grain.audio.sound import open_sound
from neural_grain.base.errors import PipelineError, printable
from neural_grain.dsp.contour import ReferenceContour, Seconds
from neural_grain.dsp.curve import SLIDER_RANGE, FittedCurve, GrainCurve, Lfo, parse_curve
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.mix import NO_MIX, Mix
from neural_grain.dsp.settings import GrainSettings

LAYER_NAMES = ("tones", "texture")  # that can be rendered alone
MAX_NAME_BYTES = 255  # of a file name, on every common file system
HASH_DIGITS = 8  # keep shortened names apart
MAX_CURVE_BYTES = 10_000_000


@dataclass(frozen=True)
class RenderTarget:
    """What a rendering shall reach: a number of octaves, or a grain; how it is mixed, and which part of it is written.

    Parameters
    ----------
    octaves : float, finite, positive is smoother
    target_grain : float in (0, 1], or None to use the octaves
    layer : "tones" or "texture" to write only that part of the result, or None for all of it
    curve : octaves that change over time, or None to use the others
    mix : with the input, and the output gain; octaves and grain are those of the wet sound
    """

    octaves: float = 0.0
    target_grain: float | None = None
    layer: str | None = None
    curve: GrainCurve | FittedCurve | Lfo | ReferenceContour | None = None
    mix: Mix = NO_MIX

    def __post_init__(self) -> None:
        """Check the values."""
        if not math.isfinite(self.octaves):
            raise ValueError(f"octaves={self.octaves} must be finite")
        if self.target_grain is not None and not 0 < self.target_grain <= 1:
            raise ValueError(f"target_grain={self.target_grain} must be within 0 (excluded) to 1")
        if self.layer not in (None, *LAYER_NAMES):
            raise ValueError(f"layer={self.layer!r} must be one of {', '.join(LAYER_NAMES)}, or None")

    def octaves_from(self, grain: float) -> float:
        """Octaves between a sound of this grain and the target."""
        return self.octaves if self.target_grain is None else math.log2(grain) - math.log2(self.target_grain)

    def curve_for(self, duration_s: float, seconds: Seconds | None = None) -> GrainCurve:
        """The curve for a sound of some length, whose ``seconds`` are needed to follow the contour of another."""
        if isinstance(self.curve, ReferenceContour):
            return seconds.curve_to(self.curve)
        return self.curve.for_duration(duration_s)

    @property
    def is_unmoved(self) -> bool:
        """True if grain stays as it is."""
        if isinstance(self.curve, GrainCurve | FittedCurve):
            return self.curve.is_constant and not self.curve_for(1.0).points[0][1]
        return self.target_grain is None and self.octaves == 0 and self.curve is None

    @property
    def is_gain(self) -> bool:
        """True if the output is the whole input times the output gain."""
        return self.layer is None and (self.is_unmoved or self.mix.wet == 0)

    @property
    def is_copy(self) -> bool:
        """True if the samples must stay as they are."""
        return self.is_gain and self.mix.gain_db == 0

    @property
    def wet(self) -> RenderTarget:
        """The same before the mix."""
        return replace(self, mix=NO_MIX)


@dataclass(frozen=True)
class Job:
    """One rendering to make."""

    source: Path
    output: Path
    target: RenderTarget


def output_name(source: Path, target: RenderTarget, number: int = 1) -> str:
    """Default name of an output: drone_grain-2.0.wav for octaves, drone_grain0.02.wav for a grain, drone_curve.wav.

    The numbers of an LFO are in the name, as in drone_lfo0.25Hz_1.5oct_triangle_grain-1.0.wav, because several are
    tried on one sound. Curves from files have one name, and so have contours.

    A mix follows, as in drone_grain-2.0_mix50_-3dB.wav.

    The tones alone are drone_grain-2.0_tones.wav, and those of the sound as it is drone_tones.wav. A name that would be
    too long is shortened, and a hash of the whole name keeps shortened names apart.

    Parameters
    ----------
    number : above 1 it tells outputs of one target apart, as in drone_grain-2.0 (2).wav
    """
    label = _octaves_label(target.octaves) if target.target_grain is None else f"{target.target_grain:.3g}"
    position = "" if target.layer and target.is_unmoved else f"_grain{label}"
    if isinstance(target.curve, Lfo):
        position = _lfo_label(target.curve)
    elif target.curve is not None:
        position = "_contour" if isinstance(target.curve, ReferenceContour) else "_curve"
    mix = "" if target.mix.wet == 1 else f"_mix{target.mix.percent:g}"
    mix += f"_{target.mix.gain_db:+g}dB" if target.mix.gain_db else ""
    layer = f"_{target.layer}" if target.layer else ""
    ending = f"{position}{mix}{layer}{f' ({number})' if number > 1 else ''}.wav"
    return name_of(source.stem, ending)


def _octaves_label(octaves: float) -> str:
    return f"{octaves:+.2f}".removesuffix("0")


def _lfo_label(lfo: Lfo) -> str:
    """Rate and depth of an LFO, then its shape if it is no sine, and its centre if that is not 0."""
    seed = f"{lfo.seed}" if lfo.shape == "random" else ""
    shape = "" if lfo.shape == "sine" else f"_{lfo.shape}{seed}"
    centre = f"_grain{_octaves_label(lfo.centre)}" if lfo.centre else ""
    return f"_lfo{lfo.rate_hz:g}Hz_{lfo.depth:g}oct{shape}{centre}"


def name_of(stem: str, ending: str) -> str:
    """A file name; of a stem that would make it too long the end is replaced by a hash of the whole stem."""
    stem_bytes, max_stem_bytes = os.fsencode(stem), MAX_NAME_BYTES - len(ending)
    if len(stem_bytes) <= max_stem_bytes:
        return stem + ending
    start = stem_bytes[: max_stem_bytes - HASH_DIGITS - 1].decode("utf-8", "ignore")
    return f"{start}_{hashlib.sha1(stem_bytes).hexdigest()[:HASH_DIGITS]}{ending}"


def free_output(source: Path, target: RenderTarget) -> Path:
    """The first default name of an output beside its source that nothing has, not even a link that leads nowhere."""
    outputs = (source.with_name(output_name(source, target, number)) for number in count(1))
    return next(output for output in outputs if not os.path.lexists(output))


def sweep_targets(step: float) -> list[RenderTarget]:
    """Positions from one end of the slider to the other in steps of some octaves, 0 among them."""
    n = int(SLIDER_RANGE / step + 1e-9)
    return [RenderTarget(round(i * step, 4) + 0.0) for i in range(-n, n + 1)]  # + 0.0 turns -0.0 into 0.0


def curve_target(path: Path, *, fit: bool) -> RenderTarget:
    """The curve in a text file; ``fit`` stretches it to the length of every sound."""
    curve = read_curve(path)
    return RenderTarget(curve=FittedCurve(curve) if fit else curve)


def match_target(reference: Path, *, over_time: bool) -> RenderTarget:
    """The grain of a reference, as a whole or second by second."""
    try:
        sound = open_sound(reference)
        if over_time:
            return RenderTarget(curve=ReferenceContour.of(sound, GrainSettings()))
        return RenderTarget(target_grain=measure_grain(sound))
    except PipelineError as err:
        raise PipelineError(f"--match {printable(reference)}: {err}") from err


def read_curve(path: Path) -> GrainCurve:
    """Read the text file of a curve; a `PipelineError` names the file, and the line where one is wrong."""
    try:
        size = path.stat().st_size
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise PipelineError("not a file")  # a device or a pipe may never end
        if size > MAX_CURVE_BYTES:
            raise PipelineError(f"larger than {MAX_CURVE_BYTES // 10**6} MB; is it a text file?")
        return parse_curve(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise PipelineError(f"{printable(path)}: not readable ({err.strerror})") from err
    except UnicodeDecodeError as err:
        raise PipelineError(f"{printable(path)}: not a text file in UTF-8") from err
    except PipelineError as err:
        raise PipelineError(f"{printable(path)}: {err}") from err
