"""Mix a rendering with its input, and measure the result: the last step of a rendering.

The amounts of a rendering were found on the wet sound. Here that is rendered once more with the same amounts, mixed
with the input, and limited once, after the mix. Grain, level and peaks of the rendering are then those of the mix; what
was requested, and whether it was within reach, stay those of the wet sound.

In: a `Rendering` or a `CurveRendering`, and a `Mix`. Out: the same with the mixed sound.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from neural_grain.audio.limiter import limit_peaks
from neural_grain.audio.sound import LevelMeter, cached_sound
from neural_grain.dsp.analysis import Analysis
from neural_grain.dsp.contour import Seconds, measure_local_grain
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.mix import Mix
from neural_grain.dsp.move import Rendering, StoreSound
from neural_grain.dsp.move_curve import CurveRendering
from neural_grain.dsp.reach import NO_CHANGE

AnyRendering = TypeVar("AnyRendering", Rendering, CurveRendering)


def mix_down(
    field: GainField,
    rendering: AnyRendering,
    mix: Mix,
    *,
    ceiling: float,
    store: StoreSound = cached_sound,
    seconds: Seconds | None = None,
) -> AnyRendering:
    """Mix a rendering of the field's sound with its input.

    Parameters
    ----------
    rendering : of the wet sound, whose audio is not needed
    ceiling : float > 0, largest sample of the result; higher peaks are limited
    store : keeps the mixed blocks
    seconds : of the sound, for a `CurveRendering`

    Raises
    ------
    PipelineError
        If the mix has no grain.
    """
    if mix.is_neutral:
        return rendering
    analysis = field.analysis
    is_moved = mix.wet > 0 and rendering.amounts != NO_CHANGE.amounts
    if not is_moved and mix.gain_db == 0:
        return _bypassed(rendering, mix, analysis, seconds)
    before_limiter, output = LevelMeter(), LevelMeter()
    blocks = before_limiter.through(field.render(rendering.amounts, mix if is_moved else replace(mix, wet=0.0)))
    sound = store(analysis.sound, output.through(limit_peaks(blocks, ceiling, analysis.sound)))
    if isinstance(rendering, CurveRendering):
        flatness, grain = measure_local_grain(sound, analysis.settings.grain, analysis.threads)
        rendering = replace(rendering, contour=rendering.contour.mixed(seconds.mean(flatness)))
    else:
        grain = measure_grain(sound, analysis.settings.grain, analysis.threads)
    return replace(
        rendering,
        sound=sound,
        grain_after=grain,
        level_db=10 * math.log10(output.energy / analysis.energy),
        limited_db=20 * math.log10(max(1.0, before_limiter.peak / ceiling)),
        mix=mix,
    )


def _bypassed(rendering: AnyRendering, mix: Mix, analysis: Analysis, seconds: Seconds | None) -> AnyRendering:
    """The rendering whose sound is the input."""
    if isinstance(rendering, CurveRendering):
        rendering = replace(rendering, contour=rendering.contour.mixed(seconds.grain))
    return replace(rendering, sound=analysis.sound, grain_after=analysis.grain, level_db=0.0, limited_db=0.0, mix=mix)
