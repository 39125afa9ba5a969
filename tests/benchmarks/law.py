"""The law of the slider on a library: every file rendered to real files at nine positions and measured by stage 1.

    python tests/benchmarks/law.py LIBRARY [--model PATH] [-j JOBS] [--files N] [--positions 25] [--unlike]

Prints one row for each file with a position out of reach or off by more than 0.02 octaves, then the figures. A position
counts as possible if its grain lies between that of white noise and that of the smoothest sound with the same dynamics,
in which every frame is a single sine: the floor of the measure lies 100 dB below the loudest bin of the sound, so a
decaying sine has a grain of 5e-5 and can't be made smoother. Without --model the built-in pattern is used. --unlike
makes difficult material of the library's first N files: MP3 without treble, 8 kHz, 192 kHz, one second, 50 dB quieter,
mostly silence, mono, six channels.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measure_audio_grain import measure_file
from neural_grain.app.processor import GrainProcessor
from neural_grain.app.targets import RenderTarget
from neural_grain.audio.audio_files import find_audio
from neural_grain.audio.formats import native_dtype
from neural_grain.audio.sound import open_sound
from neural_grain.base.parallel import map_in_order
from neural_grain.data.metadata import FileGrain
from neural_grain.dsp.flatness import active_frames, power_blocks, spectral_flatness
from neural_grain.dsp.settings import GrainSettings

POSITIONS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
SHOWN_ERROR_OCTAVES = 0.02
SHOWN_LEVEL_DB = 0.5

# K-weighting at 48 kHz: ITU-R BS.1770-4, tables 1 and 2. The product's own coefficients would not test it.
K_SHELF = (1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)
K_HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)
WHITE_GRAIN = math.exp(-np.euler_gamma)  # 0.56
LFE_CHANNEL, SURROUND = 3, {4: 1.41, 5: 1.41}


@dataclass
class Row:
    """One file at all positions."""

    name: str
    grain: float
    possible_octaves: tuple[float, float]  # to white noise, and to a single sine in every frame
    octaves: list[float] = field(default_factory=list)  # achieved, as stage 1 measures them
    within_reach: list[bool] = field(default_factory=list)
    level_db: list[float] = field(default_factory=list)  # change of RMS
    loudness_db: list[float] = field(default_factory=list)  # change of loudness
    uses_expander: list[bool] = field(default_factory=list)
    is_exact: bool = False  # at 0


def loudness_lufs(path: Path) -> float:
    """Integrated loudness (BS.1770-4) of a file; -inf below the gate or under 0.4 s."""
    from scipy.signal import lfilter, resample_poly

    y, sr = sf.read(path, always_2d=True)
    common = math.gcd(sr, 48_000)
    y = resample_poly(y, 48_000 // common, sr // common, axis=0) if sr != 48_000 else y
    z = lfilter(*K_HIGH_PASS, lfilter(*K_SHELF, y, axis=0), axis=0)
    weights = [0.0 if i == LFE_CHANNEL and y.shape[1] == 6 else SURROUND.get(i, 1.0) for i in range(y.shape[1])]
    power = np.square(z) @ weights
    sums = np.concatenate(([0], np.cumsum(power)))
    starts = np.arange(0, len(power) - 19_200 + 1, 4_800)
    if len(starts) == 0:
        return -math.inf
    blocks = (sums[starts + 19_200] - sums[starts]) / 19_200
    blocks = blocks[blocks > 10 ** ((-70 + 0.691) / 10)]
    if len(blocks) == 0:
        return -math.inf
    gated = blocks[blocks > 0.1 * blocks.mean()]
    return -0.691 + 10 * math.log10(gated.mean())


def possible_octaves(path: Path, grain: float) -> tuple[float, float]:
    """Octaves to white noise (negative) and to a single sine with the energy of each frame (positive)."""
    settings = GrainSettings()
    energies = np.concatenate([block.bins.sum(axis=1) for block in power_blocks(open_sound(path), settings)])
    active = energies[active_frames(energies, settings.active_range_db)]
    band = settings.band_for(sf.info(path).samplerate)
    sine = np.zeros(band.stop - band.start, np.float32)
    sine[:3] = 1 / 6, 4 / 6, 1 / 6  # a Hann window has three bins
    P = active[:, None] * sine
    smoothest = spectral_flatness(P, float(P.max()), settings.floor_db).mean(dtype=float)
    return math.log2(grain / WHITE_GRAIN), math.log2(grain / smoothest)


def write_unlike(sources: list[Path], folder: Path) -> list[Path]:
    """Make difficult material of some files."""
    from scipy.signal import resample_poly

    written = []

    def write(name: str, y: np.ndarray, sr: int, subtype: str = "PCM_24") -> None:
        sf.write(folder / name, np.clip(y, -1, 1 - 2**-23), sr, subtype)
        written.append(folder / name)

    for source in sources:
        y, sr = sf.read(source, always_2d=True)
        y, name = y[: 8 * sr] * 0.9, source.stem
        sf.write(folder / f"{name}.mp3", y[:, :2], sr, bitrate_mode="CONSTANT", compression_level=0.9)
        decoded, _ = sf.read(folder / f"{name}.mp3", always_2d=True)
        (folder / f"{name}.mp3").unlink()
        write(f"{name}_mp3.wav", decoded, sr, "PCM_16")
        write(f"{name}_8k.wav", resample_poly(y, 80, sr // 100, axis=0), 8_000)
        write(f"{name}_192k.wav", resample_poly(y[: 4 * sr], 1920, sr // 100, axis=0), 192_000)
        write(f"{name}_1s.wav", y[:sr], sr)
        write(f"{name}_quiet.wav", y * 10 ** (-50 / 20), sr)
        write(f"{name}_silence.wav", np.concatenate([0 * y, 0 * y, y[: len(y) // 3], 0 * y]), sr)
        write(f"{name}_mono.wav", y[:, :1], sr)
        six = [np.roll(y[:, i % y.shape[1]], 997 * i) * (1 - 0.12 * i) for i in range(6)]
        write(f"{name}_5.1.wav", np.stack(six, axis=1), sr)
    return written


def render_and_measure(source: Path, processor: GrainProcessor, folder: Path, positions: tuple[float, ...]) -> Row:
    """Render a file at each position and measure the outputs with stage 1."""
    processor = GrainProcessor(processor.loaded, 1)
    before = measure_file(source, GrainSettings())
    row = Row(source.name, before.grain, possible_octaves(source, before.grain))
    loudness_before = loudness_lufs(source)
    for octaves in positions:
        output = folder / f"{source.stem}_{octaves}{source.suffix}"
        rendering = processor.render_file(source, output, RenderTarget(octaves)).rendering
        after = measure_file(output, GrainSettings())
        assert isinstance(after, FileGrain), after
        row.octaves.append(math.log2(before.grain / after.grain))
        row.within_reach.append(rendering.within_reach)
        row.level_db.append(rendering.level_db)
        loudness_after = loudness_lufs(output)
        row.loudness_db.append(loudness_after - loudness_before if math.isfinite(loudness_before) else 0.0)
        row.uses_expander.append(rendering.amounts.expander != 0)
        if octaves == 0:
            dtype = native_dtype(sf.info(source).subtype)
            row.is_exact = np.array_equal(sf.read(source, dtype=dtype)[0], sf.read(output, dtype=dtype)[0])
        output.unlink()
    return row


def is_monotone(row: Row) -> bool:
    """True if octaves rise strictly within the reach, and do not fall beyond it."""
    steps, reach = np.diff(row.octaves), np.array(row.within_reach)
    return bool(np.all(np.where(reach[1:] & reach[:-1], steps > 0, steps >= 0)))


def print_deviations(rows: list[Row], positions: tuple[float, ...]) -> None:
    """Print the rows that are out of reach or off, then changes of RMS, then rows that are not monotone."""
    for row in rows:
        points = zip(positions, row.octaves, row.within_reach, strict=True)
        notes = [
            f"{requested:+g}: {achieved:+.2f}{'' if is_reached else ' (reach)'}"
            for requested, achieved, is_reached in points
            if abs(achieved - requested) > SHOWN_ERROR_OCTAVES
        ]
        if notes:
            print(f"{row.name:32s} {row.grain:.1e}  {', '.join(notes)}")
    for row in rows:
        levels = zip(positions, row.level_db, strict=True)
        notes = [f"{octaves:+g}: {db:+.2f} dB" for octaves, db in levels if abs(db) > SHOWN_LEVEL_DB]
        if notes:
            print(f"RMS: {row.name:32s} {', '.join(notes)}")
    for row in rows:
        if not is_monotone(row):
            print(f"not monotone: {row.name}: {', '.join(f'{octaves:+.4f}' for octaves in row.octaves)}")


def compute_figures(rows: list[Row], positions: tuple[float, ...]) -> dict[str, float]:
    """The figures of all rows by name."""
    requested = np.array(positions)
    achieved, reach, level_db, expander, loudness = (
        np.array([getattr(row, name) for row in rows])
        for name in ("octaves", "within_reach", "level_db", "uses_expander", "loudness_db")
    )
    counted = reach & (requested != 0)
    limits = np.array([row.possible_octaves for row in rows])
    possible = (requested != 0) & (requested >= limits[:, :1]) & (requested <= limits[:, 1:])
    error = np.abs(achieved - requested)
    return {
        "files": len(rows),
        "error median (octaves)": float(np.median(error[counted])),
        "error 95th percentile": float(np.percentile(error[counted], 95)),
        "error 99th percentile": float(np.percentile(error[counted], 99)),
        "error maximum": float(error[counted].max()),
        "share of positions within reach, 0 left out": float(reach[:, requested != 0].mean()),
        "share within reach, 0 < |s| <= 2": float(reach[:, (np.abs(requested) <= 2) & (requested != 0)].mean()),
        "share of positions that are possible": float(possible[:, requested != 0].mean()),
        "share of possible positions within reach": float(reach[possible].mean()),
        "share of positions that the texture reaches alone": float((counted & ~expander)[:, requested != 0].mean()),
        "share of positions that are reached with the expander": float((counted & expander)[:, requested != 0].mean()),
        f"files strictly monotone over {len(positions)} positions until the reach ends": sum(map(is_monotone, rows)),
        "files bit-exact at 0": sum(row.is_exact for row in rows),
        "loudness (BS.1770) within 1 dB, share of positions": float((np.abs(loudness) <= 1.0).mean()),
        "loudness (BS.1770), largest change (dB)": float(np.abs(loudness).max()),
        "RMS within 0.5 dB, share of positions": float((np.abs(level_db) <= 0.5).mean()),
        "RMS, largest fall (dB)": float(level_db.min()),
        "RMS, largest rise (dB)": float(level_db.max()),
    }


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the benchmark and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--model", type=Path, help="a trained model; the built-in pattern without it")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--files", type=int, default=None, help="only so many, spread over the library")
    parser.add_argument("--positions", type=int, help="so many, spread from -3 to +3")
    parser.add_argument("--unlike", action="store_true")
    args = parser.parse_args(argv)
    positions = tuple(np.linspace(-3, 3, args.positions).round(4)) if args.positions else POSITIONS
    sources = find_audio([args.library])
    if args.files:
        sources = [sources[i] for i in np.linspace(0, len(sources) - 1, args.files).round().astype(int)]
    processor = GrainProcessor.load(args.model, "cpu")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as unlike_folder:
        if args.unlike:
            sources = write_unlike(sources, Path(unlike_folder))
        work = partial(render_and_measure, processor=processor, folder=Path(folder), positions=positions)
        rows = list(map_in_order(work, sources, args.jobs))
    print_deviations(rows, positions)
    figures = compute_figures(rows, positions)
    print()
    for name, value in figures.items():
        print(f"{name:66s} {value:.4f}" if isinstance(value, float) else f"{name:66s} {value}")
    print(f"\n{len(sources) * len(positions)} renderings in {time.monotonic() - started:.0f} s, {args.jobs} jobs")
    return figures


if __name__ == "__main__":
    main()
