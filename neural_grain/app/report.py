"""Puts a rendered file into words, for the command line and the window, and into plain values for JSON."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from neural_grain.app.outputs import FileRendering
from neural_grain.dsp.curve import SLIDER_RANGE
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.mix import describe_mix
from neural_grain.dsp.move import Rendering
from neural_grain.dsp.move_curve import MISSED, MOVED, OUT_OF_REACH, SILENT, CurveRendering, GrainContour
from neural_grain.dsp.solver import SliderZones

REPORTED_LIMITING_DB = 0.1  # less is inaudible
REPORTED_LEVEL_DB = 0.5  # a smaller change of level is within what the program promises


def describe_result(result: FileRendering) -> str:
    """What became of a file, in one line."""
    if result.rendering is not None:
        return describe_rendering(result.rendering, result.layer)
    return f"no grain to measure; {describe_mix(replace(result.mix, wet=1.0)) or 'copied as it is'}"


def describe_rendering(rendering: Rendering | CurveRendering, layer: str | None = None) -> str:
    """A rendering in one line, such as "grain 0.0031 -> 0.0124 (asked x4.00, got x3.97), only texture moved: +9.1 dB".

    With a mix, grain is that of the mixed sound, and the line goes on as in "; 50 % wet, gain -3.0 dB".

    Parameters
    ----------
    layer : that was written instead of the whole rendering
    """
    if isinstance(rendering, CurveRendering):
        return _with_level(f"{f'the {layer} of: ' if layer else ''}{describe_contour(rendering)}", rendering)
    if layer is not None and rendering.requested_octaves == 0:
        return _with_level(f"the {layer} of the sound as it is", rendering)
    requested, achieved = 2.0**-rendering.requested_octaves, 2.0**-rendering.achieved_octaves
    reach = "" if rendering.within_reach else ": as far as this sound goes"
    line = (
        f"grain {rendering.grain_before:.3g} -> {rendering.grain_after:.3g} "
        f"(asked x{requested:#.3g}, got x{achieved:#.3g}{reach}){describe_amounts(rendering.amounts)}"
    )
    if layer is not None:
        line = f"the {layer} of: {line}"
    return _with_level(line, rendering)


def describe_beside_curve(rendering: CurveRendering) -> str:
    """The same without what the drawn curve shows, so that it is a single line in the window."""
    if rendering.curve.is_constant:
        return describe_rendering(rendering)
    return _with_level(f"curve: {describe_seconds(rendering.contour)}", rendering)


def _with_level(line: str, rendering: Rendering | CurveRendering) -> str:
    """The line with the mix, and with what happened to peaks and level if that is worth to be said."""
    if mix := describe_mix(rendering.mix):
        line += f"; {mix}"
    if rendering.limited_db > REPORTED_LIMITING_DB:
        line += f", peaks limited by {rendering.limited_db:.1f} dB"
    if abs(rendering.level_db - rendering.mix.gain_db) > REPORTED_LEVEL_DB:
        line += f", {abs(rendering.level_db):.1f} dB {'quieter' if rendering.level_db < 0 else 'louder'}"
    return line


def describe_contour(rendering: CurveRendering) -> str:
    """How a sound follows a curve, such as "curve from -2.00 to +1.50: 14 of 16 seconds moved, 1 silent (...)"."""
    contour, octaves = rendering.contour, [octaves for _, octaves in rendering.curve.points]
    grain = f"grain {rendering.grain_before:.3g} -> {rendering.grain_after:.3g}"
    if rendering.curve.is_constant:
        low, high = np.nanmin(contour.achieved_octaves), np.nanmax(contour.achieved_octaves)
        return (
            f"the same amounts for the whole sound ({octaves[0]:+.2f}): {grain}, its seconds {low:+.2f} to {high:+.2f}"
        )
    return f"curve from {min(octaves):+.2f} to {max(octaves):+.2f}: {describe_seconds(contour)}, {grain}"


def describe_seconds(contour: GrainContour) -> str:
    """How the seconds of a sound follow a curve, such as "14 of 16 seconds moved, 1 silent (...)"."""
    counts = Counter(contour.states)
    others = "".join(f", {counts[state]} {state}" for state in (OUT_OF_REACH, MISSED, SILENT) if counts[state])
    errors = contour.errors()
    precision = f" (median error {np.median(errors):.3f} octaves)" if len(errors) else ""
    return f"{counts[MOVED]} of {len(contour.states)} seconds moved{others}{precision}"


def describe_amounts(amounts: Amounts) -> str:
    """What was moved, as the end of a line; empty if nothing was."""
    moved = f"texture moved: {amounts.texture_db:+.1f} dB"
    if not amounts.expander and not amounts.fill:
        return f", only {moved}" if amounts.texture_db else ""
    rest = "weak bands filled with noise" if amounts.to_texture else "weak partials thinned out"
    if amounts.expander < 0:
        rest += " and the spectrum flattened"
    return f", {moved}, and {rest}" if amounts.texture_db else f", no texture to move: {rest}"


def describe_zones(zones: SliderZones) -> str:
    """What the trough of the slider shows, in lines."""
    (texture_low, texture_high), (low, high) = (
        [min(octaves, SLIDER_RANGE) for octaves in directions] for directions in zones
    )
    # 0 - x and not -x, which may be -0.0
    lines = [f"strong shade: only texture moves, from {0 - texture_low:+.1f} to {texture_high:+.1f}"]
    if low > texture_low + 0.05:
        lines.append(f"faint shade: weak bands are filled with noise, down to {0 - low:+.1f}")
    if high > texture_high + 0.05:
        lines.append(f"faint shade: weak partials are thinned out, up to {high:+.1f}")
    if min(low, high) < SLIDER_RANGE:
        lines.append("no shade: this sound goes no farther")
    return "\n".join(lines)


def describe_left_behind(result: FileRendering) -> str:
    """What an output has no place for, in one line; empty if it has a place for everything."""
    return f"left behind: {', '.join(result.left_behind)}" if result.left_behind else ""


def rendering_report(result: FileRendering) -> dict[str, object]:
    """A rendered file as plain values for JSON, without NaN."""
    paths = {"input": str(result.input), "output": str(result.output), "layer": result.layer}
    paths |= {"left_behind": list(result.left_behind), "mix": result.mix.percent, "gain_db": result.mix.gain_db}
    rendering = result.rendering
    if rendering is None:
        return paths | {"grain_before": None, "grain_after": None}
    if isinstance(rendering, CurveRendering):
        names = ("grain_before", "grain_after", "level_db", "limited_db")
        return paths | {name: getattr(rendering, name) for name in names} | {"curve": contour_report(rendering)}
    numbers = {name: value for name, value in vars(rendering).items() if name not in ("sound", "amounts", "mix")}
    amounts = {f"{name}_amount": getattr(rendering.amounts, name) for name in ("fill", "expander")}
    amounts["texture_db"] = rendering.amounts.texture_db
    return paths | numbers | {"achieved_octaves": rendering.achieved_octaves} | amounts


def contour_report(rendering: CurveRendering) -> dict[str, object]:
    """A curve and what each second achieved, as plain values for JSON; None where a second is silent."""
    contour = rendering.contour

    def plain(values: np.ndarray) -> list[float | None]:
        return [None if math.isnan(value) else float(value) for value in values]

    return {
        "points": [list(point) for point in rendering.curve.points],
        "requested_octaves": plain(contour.requested_octaves),
        "achieved_octaves": plain(contour.achieved_octaves),
        "grain_before": plain(contour.grain_before),
        "grain_after": plain(contour.grain_after),
        "states": contour.states,
    }
