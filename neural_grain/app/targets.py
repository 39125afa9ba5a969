"""What inputs are rendered to: the targets that a sweep, a curve or a reference make."""

from __future__ import annotations

from pathlib import Path

from neural_grain.app.processor import RenderTarget
from neural_grain.audio.sound import open_sound
from neural_grain.base.errors import PipelineError, printable
from neural_grain.dsp.contour import ReferenceContour
from neural_grain.dsp.curve import SLIDER_RANGE, FittedCurve, GrainCurve, parse_curve
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.settings import GrainSettings

MAX_CURVE_BYTES = 10_000_000


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
        if path.stat().st_size > MAX_CURVE_BYTES:
            raise PipelineError(f"larger than {MAX_CURVE_BYTES // 10**6} MB; is it a text file?")
        return parse_curve(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise PipelineError(f"{printable(path)}: not readable ({err.strerror})") from err
    except UnicodeDecodeError as err:
        raise PipelineError(f"{printable(path)}: not a text file in UTF-8") from err
    except PipelineError as err:
        raise PipelineError(f"{printable(path)}: {err}") from err
