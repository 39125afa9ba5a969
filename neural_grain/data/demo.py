"""A small library of synthesised sounds, so that everything can be tried without recordings.

Each sound is a tone, made of sines, plus texture: breath, bow noise or crackle, with tape hiss. The level of the
texture is solved so that the sound has a given grain. The grains of a folder form a geometric series, which is even
in octaves. The sounds are the same on every machine and in every run.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neural_grain.audio.sound import sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write, prepare_folder
from neural_grain.base.parallel import map_unordered
from neural_grain.data.incremental import Progress, no_progress
from neural_grain.data.metadata import DEFAULT_FOLDERS
from neural_grain.dsp.flatness import measure_grain

STATIC = "Drone/Static"
EVOLVING = "Drone/Evolving"
CHORDS = "Harmonic Progression"
DEMO_FOLDERS = (STATIC, EVOLVING, CHORDS)  # the kinds of sound; their order seeds the random numbers


@dataclass(frozen=True)
class DemoSettings:
    """Size of the demo library and the shape of its sounds."""

    sample_rate_hz: int = 44_100
    duration_s: float = 5.9  # just under two tiles of stage 2
    files_per_folder: int = 20
    lowest_grain: float = 1e-5
    highest_grain: float = 0.06
    chord_fade_s: float = 0.3  # shorter fades between chords have a grain of their own
    hiss: float = 0.4  # RMS relative to the other texture


DEMO = DemoSettings()


class DemoSound(NamedTuple):
    """A demo sound, which is the sum of its parts, float64."""

    tone: np.ndarray  # (samples, 1)
    texture: np.ndarray  # (samples, channels)

    @property
    def y(self) -> np.ndarray:
        """Its samples, shape (samples, channels)."""
        return self.tone + self.texture


def demo_tone(kind: str, rng: np.random.Generator) -> np.ndarray:
    """The smooth part of a demo sound: steady partials, a moving low-pass filter, or four chords.

    Parameters
    ----------
    kind : str, one of DEMO_FOLDERS
    rng : np.random.Generator

    Returns
    -------
    np.ndarray, shape (samples,), float64, peak 1
    """
    t = np.arange(round(DEMO.duration_s * DEMO.sample_rate_hz)) / DEMO.sample_rate_hz
    root_hz = 55.0 * 2 ** (rng.integers(0, 25) / 12)
    y = _chords(t, root_hz, rng) if kind == CHORDS else _drone(t, root_hz, rng, is_evolving=kind == EVOLVING)
    return y / np.abs(y).max()


def _chords(t: np.ndarray, root_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Four chords of four notes with four partials each, in random order."""
    y = np.zeros_like(t)
    chord_s = DEMO.duration_s / 4
    for chord, steps in enumerate(rng.permutation([(0, 4, 7, 11), (5, 9, 12, 16), (7, 11, 14, 17), (9, 12, 16, 19)])):
        fade_in = np.clip((t - chord * chord_s) / DEMO.chord_fade_s + 0.5, 0, 1)
        fade_out = np.clip(((chord + 1) * chord_s - t) / DEMO.chord_fade_s + 0.5, 0, 1)
        envelope = np.sin(0.5 * np.pi * (fade_in * fade_out)) ** 2
        audible = np.flatnonzero(envelope)
        part = slice(audible[0], audible[-1] + 1)
        for step in steps:
            for partial in range(1, 5):
                hz = root_hz * partial * 2 ** (step / 12)
                y[part] += envelope[part] * np.sin(2 * np.pi * (hz * t[part] + rng.random())) / partial**1.8
    return y


def _drone(t: np.ndarray, root_hz: float, rng: np.random.Generator, *, is_evolving: bool) -> np.ndarray:
    """Nine partials, each doubled and slightly detuned, under a low-pass filter that stands still or moves."""
    y = np.zeros_like(t)
    for partial in range(1, 10):
        cutoff = 3 + 2.5 * np.sin(2 * np.pi * (t / DEMO.duration_s + rng.random())) if is_evolving else 4.0
        amplitude = partial**-0.7 / (1 + (partial / cutoff) ** 4)
        for detune_hz in (0.0, rng.uniform(0.1, 0.6)):
            y += amplitude * np.sin(2 * np.pi * ((root_hz * partial + detune_hz) * t + rng.random()))
    return y


def demo_texture(kind: str, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The grainy part of a demo sound: breath, bow noise or crackle, with tape hiss.

    Parameters
    ----------
    kind : str, one of DEMO_FOLDERS
    tone : np.ndarray, shape (samples,), which bow noise follows
    rng : np.random.Generator

    Returns
    -------
    np.ndarray, shape (samples, 2), float64, RMS 1; the channels are independent
    """
    noise = rng.standard_normal((len(tone), 2))
    hiss = _band_pass(rng.standard_normal((len(tone), 2)), 20, 9_000)
    if kind == STATIC:
        texture = _band_pass(noise, rng.uniform(2_000, 4_000), 12_000)  # breath
    elif kind == EVOLVING:
        texture = tone[:, None] * _band_pass(noise, 10, rng.uniform(150, 600))  # a bow: noise around each partial
    else:
        is_click = rng.random(noise.shape) < rng.uniform(30, 150) / DEMO.sample_rate_hz
        texture = _band_pass(noise * is_click, 800, 8_000)  # crackle
    texture = texture / texture.std() + DEMO.hiss * hiss / hiss.std()
    return texture / texture.std()


def _band_pass(noise: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise (samples, channels) between two second-order slopes."""
    hz = np.fft.rfftfreq(len(noise), 1 / DEMO.sample_rate_hz)[:, None]
    response = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high_hz) ** 4)
    return np.fft.irfft(np.fft.rfft(noise, axis=0) * response, len(noise), axis=0)


def demo_sound(kind: str, index: int, grain: float) -> DemoSound:
    """A demo sound of a given grain, with a peak of 0.5; every third one is stereo.

    Parameters
    ----------
    kind : str, one of DEMO_FOLDERS
    index : int, number of the sound in its folder, from 0
    grain : float, in (0, 1)
    """
    from scipy.optimize import brentq

    rng = np.random.default_rng([DEMO_FOLDERS.index(kind), index])
    tone = demo_tone(kind, rng)
    texture = demo_texture(kind, tone, rng)[:, : 2 if index % 3 == 0 else 1]

    def mix(level_db: float) -> DemoSound:
        gain = 10 ** (level_db / 20)
        scale = 0.5 / np.abs(tone[:, None] + gain * texture).max()
        return DemoSound(scale * tone[:, None], scale * gain * texture)

    def excess_octaves(level_db: float) -> float:
        y = tone[:, None] + 10 ** (level_db / 20) * texture  # at any level, because grain does not depend on it
        return math.log2(measure_grain(sound_from_array(y, DEMO.sample_rate_hz)) / grain)

    return mix(brentq(excess_octaves, -130, 30, xtol=0.05))


def write_demo(folder: Path, progress: Progress = no_progress, jobs: int = 1) -> list[Path]:
    """Write the demo library below ``folder`` on ``jobs`` threads; files that are already there stay as they are.

    Raises
    ------
    PipelineError
        If one of its folders holds anything that does not belong to the demo.
    """
    import soundfile as sf

    sounds = {
        folder / kind / f"demo_{kind.split('/')[-1].split()[0].lower()}_{index + 1:02d}.flac": (
            kind,
            index,
            float(grain),
        )
        for kind in DEMO_FOLDERS
        for index, grain in enumerate(np.geomspace(DEMO.lowest_grain, DEMO.highest_grain, DEMO.files_per_folder))
    }
    _check_only_demo(folder, {*sounds, folder / STATIC, folder / EVOLVING})
    for kind in DEMO_FOLDERS:
        prepare_folder(folder / kind)
    missing = [path for path in sounds if not path.exists()]

    def write(path: Path) -> None:
        encoded = io.BytesIO()  # soundfile would not say why writing to a file failed
        sf.write(encoded, demo_sound(*sounds[path]).y, DEMO.sample_rate_hz, "PCM_16", format="FLAC")
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded.getbuffer())

    for _ in progress(map_unordered(write, missing, jobs), len(missing)):
        pass
    return list(sounds)


def _check_only_demo(folder: Path, allowed: set[Path]) -> None:
    """Refuse to mix the demo with the user's own files; hidden ones may be of the system, or of a run that was killed."""
    for top in DEFAULT_FOLDERS:
        others = sorted(path for path in (folder / top).rglob("[!.]*") if path not in allowed)
        if others:
            raise PipelineError(
                f"{folder / top}: holds {others[0].name}, not only the demo; run --demo in an empty folder"
            )
