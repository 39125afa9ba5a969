"""What the window says about a sound, a request and a model, in words."""

from __future__ import annotations

import math
from pathlib import Path

from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.sound import Sound
from neural_grain.base.errors import printable
from neural_grain.dsp.mix import describe_mix
from neural_grain.session.messages import SoundFacts

NOTHING_LEARNED = 'nothing learned yet; to learn, see "Learn from my sounds ..." in the menu "Model"'
DEPTHS = {"PCM_S8": "8 bit", "PCM_U8": "8 bit", "PCM_16": "16 bit", "PCM_24": "24 bit", "PCM_32": "32 bit"}
MAX_NAME_LENGTH = 44  # characters of a file name that are shown


def count_of(n: int, noun: str) -> str:
    """A number of things, such as "1 file" and "2 files"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def shortened_name(path: Path) -> str:
    """Name of a file, in which the middle is left out if it is too long."""
    name = printable(path.name)
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[: MAX_NAME_LENGTH - 20]} ... {name[-14:]}"
    return name


def describe_sound(sound: Sound, facts: SoundFacts, position_s: float | None) -> str:
    """Time, length, channels, rate, depth and loudness of a sound in one line."""
    duration_s = sound.n_samples / sound.sr
    time = f"{format_time(position_s or 0.0)} / {format_time(duration_s)}"
    channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
    depth = DEPTHS.get(facts.subtype, facts.subtype.replace("_", " ").lower())
    parts = [time, channels, f"{sound.sr / 1000:g} kHz", depth]
    if math.isfinite(facts.loudness_lufs):
        parts.append(f"{facts.loudness_lufs:.1f} LUFS")
    return "   ".join(parts)


def format_time(seconds: float) -> str:
    """Minutes, seconds and tenths, such as 1:05.2."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def describe_request(grain: float, target: RenderTarget) -> str:
    """Line about a target that is not measured yet, in the form of `describe_rendering`."""
    mix = f"; {mix}" if (mix := describe_mix(target.mix)) else ""
    if target.curve is not None:
        return f"curve: to be measured{mix}"
    factor = 2.0**-target.octaves
    expected = f" -> {grain * factor:.3g}?" if target.mix.wet == 1 else ""
    return f"grain {grain:.3g}{expected} (asked x{factor:#.3g}, to be measured){mix}"


def audit_verdict(processor: GrainProcessor) -> str:
    """Verdict of the audit after training."""
    return processor.loaded.audit.get("verdict", "not audited")


def describe_model(processor: GrainProcessor | None) -> str:
    """Sheet about a model: what it was trained on, and the verdict of its audit."""
    if processor is None:
        return "no model is loaded"
    if processor.loaded is None:
        return NOTHING_LEARNED
    training = processor.loaded.training
    return (
        f"trained on {training.get('files', '?')} files, {training.get('tiles', '?')} tiles, "
        f"{training.get('epochs_done', '?')} epochs\n\naudit: {audit_verdict(processor)}"
    )
