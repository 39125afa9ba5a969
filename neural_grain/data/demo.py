"""TODO"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from neural_grain.audio.sound import sound_from_array
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import atomic_write, prepare_folder
from neural_grain.data.metadata import DEFAULT_FOLDERS
from neural_grain.dsp.flatness import measure_grain

DEMO_FOLDERS = ("Drone/Static", "Drone/Evolving", "Harmonic Progression")
DEMO_RATE_HZ = 44_100
DEMO_LENGTH_S = 5.9  # just under two tiles of stage 2
DEMO_FILES_PER_FOLDER = 20
DEMO_GRAINS = (1e-5, 0.06)  # first and last of a geometric series, so even in octaves


def demo_tone(kind: str, rng: np.random.Generator) -> np.ndarray:
    """The smooth part of a demo sound: sines that stand, move or change chord.

    Returns
    -------
    np.ndarray, shape (samples,), float64, peak 1
    """
    t = np.arange(round(DEMO_LENGTH_S * DEMO_RATE_HZ)) / DEMO_RATE_HZ
    root_hz = 55.0 * 2 ** (rng.integers(0, 25) / 12)
    y = np.zeros_like(t)
    if kind == "Harmonic Progression":
        length_s = DEMO_LENGTH_S / 4
        for chord, steps in enumerate(
            rng.permutation([(0, 4, 7, 11), (5, 9, 12, 16), (7, 11, 14, 17), (9, 12, 16, 19)])
        ):
            # Raised-cosine edges of 0.3 s: shorter ones put grain into every change of chord.
            inside = np.clip((t - chord * length_s) / 0.3 + 0.5, 0, 1) * np.clip(
                ((chord + 1) * length_s - t) / 0.3 + 0.5, 0, 1
            )
            envelope = np.sin(0.5 * np.pi * inside) ** 2
            for step in steps:
                for partial in range(1, 5):
                    hz = root_hz * partial * 2 ** (step / 12)
                    y += envelope * np.sin(2 * np.pi * (hz * t + rng.random())) / partial**1.8
    else:
        for partial in range(1, 10):
            # A low-pass that opens and closes: what subtractive synthesis does, partial by partial.
            cutoff = (
                3 + 2.5 * np.sin(2 * np.pi * (t / DEMO_LENGTH_S + rng.random())) if kind == "Drone/Evolving" else 4.0
            )
            amplitude = partial**-0.7 / (1 + (partial / cutoff) ** 4)
            for detune_hz in (0.0, rng.uniform(0.1, 0.6)):
                y += amplitude * np.sin(2 * np.pi * ((root_hz * partial + detune_hz) * t + rng.random()))
    return y / np.abs(y).max()


def demo_texture(kind: str, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The grainy part of a demo sound: breath, bowing or crackle and tape hiss, by kind of sound.

    Returns
    -------
    np.ndarray, shape (samples, 2), float64, RMS 1 (the channels are independent noise)
    """

    def shaped(noise: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
        hz = np.fft.rfftfreq(len(noise), 1 / DEMO_RATE_HZ)[:, None]
        response = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 4) / np.sqrt(1 + (hz / high_hz) ** 4)
        return np.fft.irfft(np.fft.rfft(noise, axis=0) * response, len(noise), axis=0)

    noise = rng.standard_normal((len(tone), 2))
    hiss = shaped(rng.standard_normal((len(tone), 2)), 20, 9_000)
    if kind == "Drone/Static":
        texture = shaped(noise, rng.uniform(2_000, 4_000), 12_000)  # breath
    elif kind == "Drone/Evolving":
        texture = tone[:, None] * shaped(noise, 10, rng.uniform(150, 600))  # a bow: noise around each partial
    else:
        texture = shaped(noise * (rng.random(noise.shape) < rng.uniform(30, 150) / DEMO_RATE_HZ), 800, 8_000)  # crackle
    texture = texture / texture.std() + 0.4 * hiss / hiss.std()
    return texture / texture.std()


def demo_sound(kind: str, index: int, grain: float) -> np.ndarray:
    """A demo sound of a given grain: texture is added to the tone until it measures so.

    Returns
    -------
    np.ndarray, shape (samples, channels), float64, peak 0.5; every third is stereo
    """
    from scipy.optimize import brentq

    rng = np.random.default_rng([DEMO_FOLDERS.index(kind), index])
    tone = demo_tone(kind, rng)
    texture = demo_texture(kind, tone, rng)[:, : 2 if index % 3 == 0 else 1]

    def mixed(level_db: float) -> np.ndarray:
        y = tone[:, None] + 10 ** (level_db / 20) * texture
        return 0.5 * y / np.abs(y).max()

    def excess_octaves(level_db: float) -> float:
        return math.log2(measure_grain(sound_from_array(mixed(level_db), DEMO_RATE_HZ)) / grain)

    return mixed(brentq(excess_octaves, -130, 30, xtol=0.05))


def write_demo(folder: Path, progress: Callable[[Iterable, int], Iterable] = lambda items, total: items) -> list[Path]:
    """Write the demo library below ``folder``; files of an earlier run stay as they are.

    Raises
    ------
    PipelineError
        If one of its folders holds anything that is not the demo's.
    """
    import soundfile as sf

    wanted = {}
    for kind in DEMO_FOLDERS:
        for index, grain in enumerate(np.geomspace(*DEMO_GRAINS, DEMO_FILES_PER_FOLDER)):
            name = f"demo_{kind.split('/')[-1].split()[0].lower()}_{index + 1:02d}.flac"
            wanted[folder / kind / name] = (kind, index, float(grain))
    allowed = {*wanted, folder / "Drone/Static", folder / "Drone/Evolving"}
    for top in DEFAULT_FOLDERS:
        strangers = sorted(set((folder / top).rglob("*")) - allowed)
        if strangers:
            raise PipelineError(
                f"{folder / top}: holds {strangers[0].name}, not only the demo; run --demo in an empty folder"
            )
    for kind in DEMO_FOLDERS:
        prepare_folder(folder / kind)
    missing = [path for path in wanted if not path.exists()]
    for path in progress(missing, len(missing)):
        with atomic_write(path) as temporary:
            sf.write(temporary, demo_sound(*wanted[path]), DEMO_RATE_HZ, "PCM_16", format="FLAC")
    return list(wanted)
