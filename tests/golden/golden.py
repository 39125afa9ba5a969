"""Twenty synthesised sounds, and figures of them: their layers, and the grain, level and spectrum of renderings.

`golden.json` holds the figures. Its script makes it again, after a change that is meant to change how things sound:

    python tests/golden/golden.py

Some renderings are at a position of the slider, which a solver searches. Others have gains that are given here, so
that their figures depend on the split and on rendering alone, and may be compared closely. All tolerances leave room
for the rounding of another processor or library version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

from conftest import SR, drone, noise, sine
from rendering import SETTINGS, rendered, samples_of, solver_of

from neural_grain.dsp.curve import GrainCurve
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.gains import Amounts
from neural_grain.dsp.generation import GeneratedTexture
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.move_curve import CurveSolver

GOLDEN = Path(__file__).with_suffix(".json")
POSITIONS = (-2.0, 1.5)
GIVEN = {  # amounts that no solver has changed
    "texture +12 dB": Amounts(12.0, 0.0),
    "texture -20 dB": Amounts(-20.0, 0.0),
    "expander": Amounts(-6.0, 0.4),
    "fill": Amounts(24.0, -0.3, fill=0.5),
}
CRACKLE = GeneratedTexture(np.linspace(0, -40, SETTINGS.n_mels, dtype=np.float32), 20.0)
CURVE = GrainCurve.of([(0.0, -1.0), (0.8, -0.5), (1.4, 1.0), (2.0, 1.0)])
EDGES_HZ = (50, 200, 400, 800, 1600, 3200, 6400, 15_000)  # of the bands of the spectrum
SILENT_DB = -120.0


def _chord(duration_s: float = 2.0) -> np.ndarray:
    return sum(sine(hz * k, duration_s, level=0.1 / k) for hz in (220.0, 277.2, 329.6) for k in range(1, 6))


def _clicks(per_s: float, duration_s: float = 2.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.zeros(round(duration_s * SR))
    y[rng.choice(len(y), round(per_s * duration_s), replace=False)] = rng.uniform(-0.8, 0.8, round(per_s * duration_s))
    return y


def _swell(duration_s: float = 2.0) -> np.ndarray:
    return np.sin(np.pi * np.arange(round(duration_s * SR)) / (duration_s * SR))


def _filtered(y: np.ndarray, hz: float, *, high: bool = False) -> np.ndarray:
    """A gentle low-pass or high-pass, without phase."""
    spectrum, frequencies = np.fft.rfft(y), np.fft.rfftfreq(len(y), 1 / SR)
    gain = 1 / (1 + (frequencies / hz) ** 2)
    return np.fft.irfft(spectrum * (1 - gain if high else gain), len(y))


def _chirp(duration_s: float = 2.0) -> np.ndarray:
    t = np.arange(round(duration_s * SR)) / SR
    return 0.4 * np.sin(2 * np.pi * (200 * t + 400 * t**2))


SOUNDS: dict[str, Callable[[], np.ndarray]] = {
    "drone, much noise": lambda: drone(-15, 2.0),
    "drone, some noise": lambda: drone(-40, 2.0),
    "drone, hardly any noise": lambda: drone(-75, 2.0),
    "drone in stereo": lambda: np.stack([drone(-40, 2.0), drone(-35, 2.0, seed=1)], axis=1),
    "drone with swelling noise": lambda: drone(-80, 2.0) + _swell() * noise(2.0, level=0.02),
    "chord with breath": lambda: _chord() + _filtered(noise(2.0, level=0.02), 2000),
    "chord with hiss": lambda: _chord() + _filtered(noise(2.0, level=0.01), 4000, high=True),
    "chord with crackle": lambda: _chord() + 0.3 * _clicks(40),
    "clean chord": _chord,
    "clean sine": lambda: sine(440.0),
    "sine with vibrato": lambda: 0.4 * np.sin(2 * np.pi * 440 * np.arange(2 * SR) / SR + 3 * np.sin(np.arange(2 * SR) / 1400)),
    "chirp": _chirp,
    "chirp with noise": lambda: _chirp() + noise(2.0, level=0.01),
    "dark noise": lambda: _filtered(noise(2.0, level=0.3), 300),
    "low noise": lambda: _filtered(_filtered(noise(2.0, level=0.5), 500), 500),
    "clicks over a drone": lambda: drone(-60, 2.0) + 0.5 * _clicks(6),
    "dense crackle": lambda: _clicks(200),
    "noise bursts": lambda: np.where(np.arange(2 * SR) % 11025 < 3000, 1.0, 0.001) * _filtered(noise(2.0), 3000),
    "tone, then silence": lambda: np.concatenate([drone(-40, 1.0), np.zeros(SR)]),
    "two tones in beats": lambda: sine(300, level=0.3) + sine(304, level=0.3) + noise(2.0, level=0.003),
}  # fmt: skip


def level_db(power: float) -> float:
    """Level of a power, not below `SILENT_DB`."""
    return max(SILENT_DB, 10 * float(np.log10(power + 1e-30)))


def band_levels_db(y: np.ndarray) -> list[float]:
    """Level of a sound, shape (n, channels), in each band of the spectrum."""
    power = np.square(np.abs(np.fft.rfft(y, axis=0))).mean(axis=1) / len(y) ** 2
    frequencies = np.fft.rfftfreq(len(y), 1 / SR)
    bands = pairwise(EDGES_HZ)
    return [level_db(power[(frequencies >= low) & (frequencies < high)].sum()) for low, high in bands]


def figures_of(name: str) -> dict:
    """Figures of one of the sounds and of its renderings, by name."""
    solver = solver_of(SOUNDS[name]())
    layers = solver.analysis.layers
    figures = {
        "grain": solver.analysis.grain,
        "layers_db": {each: band_levels_db(getattr(layers, each)) for each in ("tones", "transients", "noise")},
        "given_db": given_figures(solver.field),
        "curve_db": CurveSolver(solver).estimate(CURVE).texture_db[::8].tolist(),
    }
    for position in POSITIONS:
        rendering = move_grain(solver, position)
        y = samples_of(rendering.sound)
        figures[f"{position:+g}"] = {
            "grain": rendering.grain_after,
            "texture_db": rendering.amounts.texture_db,
            "level_db": level_db(np.square(y, dtype=float).mean()),
            "bands_db": band_levels_db(y),
        }
    return figures


def given_figures(field: GainField) -> dict:
    """Spectra of the renderings with given amounts, the last one with generated crackle."""
    with_crackle = GainField(field.analysis, CRACKLE)
    return {
        name: band_levels_db(rendered(with_crackle if amounts.fill else field, amounts))
        for name, amounts in GIVEN.items()
    }


def rounded(value: object) -> object:
    """Figures with five digits, which is more than any tolerance."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else float(f"{value:.5g}")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: rounded(figures_of(name)) for name in SOUNDS}, indent=1) + "\n")
    print(f"wrote {GOLDEN}")
