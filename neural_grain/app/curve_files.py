"""Reads and writes the text files of curves, so that none replaces a file of another kind by mistake."""

from __future__ import annotations

from pathlib import Path

from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import atomic_write
from neural_grain.dsp.curve import GrainCurve, format_curve, parse_curve

MAX_CURVE_BYTES = 10_000_000


def read_curve(path: Path) -> GrainCurve:
    """Read the text file of a curve."""
    name = printable(path.name)
    try:
        if path.stat().st_size > MAX_CURVE_BYTES:
            raise PipelineError(f"larger than {MAX_CURVE_BYTES // 10**6} MB, so it is no curve")
        return parse_curve(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise PipelineError(f"{name}: not readable ({err.strerror})") from err
    except UnicodeDecodeError as err:
        raise PipelineError(f"{name}: not a text file, so it is no curve") from err
    except PipelineError as err:
        raise PipelineError(f"{name}: {err}") from err


def write_curve(path: Path, curve: GrainCurve) -> None:
    """Write the text file of a curve, in place of what is there."""
    with atomic_write(path) as temporary:
        temporary.write_text(format_curve(curve), encoding="utf-8")


def is_other_file(path: Path) -> bool:
    """Whether something other than a curve has this name."""
    if not path.exists():
        return False
    try:
        read_curve(path)
    except PipelineError:
        return True
    return False
