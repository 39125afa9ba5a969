"""Writes the text files of curves, so that none replaces a file of another kind by mistake."""

from __future__ import annotations

from pathlib import Path

from neural_grain.app.targets import read_curve
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write
from neural_grain.dsp.curve import GrainCurve, format_curve


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
