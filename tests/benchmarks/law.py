"""The law of the slider on a library: every file rendered at nine positions to real files, and measured again by stage 1.

    python tests/benchmarks/law.py LIBRARY [--model PATH] [-j JOBS] [--files N] [--positions 25] [--unlike]

Prints one row a file where something is out of reach or off, then the figures. --unlike makes other
material of the library's first N files: MP3 with an empty top, 8 kHz, 192 kHz, one second, 50 dB quieter,
nine tenths silence, mono, six channels.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from joblib import Parallel, delayed
from scipy.signal import lfilter, resample_poly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from measure_audio_grain import measure_file
from neural_grain.app.processor import DEFAULT_MODEL, GrainProcessor, RenderTarget
from neural_grain.audio.formats import native_dtype
from neural_grain.audio.sound import find_audio
from neural_grain.data.metadata import FileGrain
from neural_grain.dsp.settings import GrainSettings

POSITIONS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)

# K-weighting at 48 kHz: ITU-R BS.1770-4, tables 1 and 2
K_SHELF = (1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)
K_HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)
LFE_CHANNEL, SURROUND = 3, {4: 1.41, 5: 1.41}


def loudness_lufs(path: Path) -> float:
    """Integrated loudness (BS.1770-4) of a file; -inf below the gate or under 0.4 s."""
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


def write_unlike(sources: list[Path], folder: Path) -> list[Path]:
    """Other material made of some files."""
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


def render_and_measure(processor: GrainProcessor, source: Path, folder: Path, positions: tuple[float, ...]) -> dict:
    """Octaves that stage 1 measures between the file and its renderings."""
    processor = GrainProcessor(processor.loaded, 1)
    before = measure_file(source, GrainSettings())
    row = {
        "name": source.name,
        "grain": before.grain,
        "got": [],
        "reach": [],
        "level_db": [],
        "loudness": [],
        "expander": [],
        "exact": False,
    }
    loudness = loudness_lufs(source)
    for octaves in positions:
        output = folder / f"{source.stem}_{octaves}{source.suffix}"
        result = processor.render_file(source, output, RenderTarget(octaves)).rendering
        after = measure_file(output, GrainSettings())
        assert isinstance(after, FileGrain), after
        row["got"].append(math.log2(before.grain / after.grain))
        row["reach"].append(result.within_reach)
        row["level_db"].append(result.level_db)
        after_lufs = loudness_lufs(output)
        row["loudness"].append(after_lufs - loudness if math.isfinite(loudness) else 0.0)
        row["expander"].append(result.amounts.expander != 0)
        if octaves == 0:
            dtype = native_dtype(sf.info(source).subtype)
            row["exact"] = np.array_equal(sf.read(source, dtype=dtype)[0], sf.read(output, dtype=dtype)[0])
        output.unlink()
    return row


def report(rows: list[dict], positions: tuple[float, ...]) -> dict:
    """Print the rows that are out of reach or off, then the figures; returns the figures."""
    asked = np.array(positions)
    got, reach, level_db = (np.array([row[name] for row in rows]) for name in ("got", "reach", "level_db"))
    expander = np.array([row["expander"] for row in rows])
    error = np.abs(got - asked)
    counted = reach & (asked != 0)
    for row, misses in zip(rows, error, strict=True):
        notes = [
            f"{s:+g}: {g:+.2f}{'' if r else ' (reach)'}"
            for s, g, r, e in zip(asked, row["got"], row["reach"], misses, strict=True)
            if e > 0.02
        ]
        if notes:
            print(f"{row['name']:32s} {row['grain']:.1e}  {', '.join(notes)}")
    for row, levels in zip(rows, level_db, strict=True):
        notes = [f"{s:+g}: {db:+.2f} dB" for s, db in zip(asked, levels, strict=True) if abs(db) > 0.5]
        if notes:
            print(f"loudness: {row['name']:32s} {', '.join(notes)}")
    # Strictly upwards within the reach; beyond it grain stays where it is.
    steps, inside = np.diff(got, axis=1), reach[:, 1:] & reach[:, :-1]
    monotone = np.all(np.where(inside, steps > 0, steps >= 0), axis=1)
    for row, is_monotone in zip(rows, monotone, strict=True):
        if not is_monotone:
            print(f"not monotone: {row['name']}: {', '.join(f'{g:+.4f}' for g in row['got'])}")
    loudness = np.abs(np.array([row["loudness"] for row in rows]))
    figures = {
        "files": len(rows),
        "error median (octaves)": float(np.median(error[counted])),
        "error 95th percentile": float(np.percentile(error[counted], 95)),
        "error 99th percentile": float(np.percentile(error[counted], 99)),
        "error maximum": float(error[counted].max()),
        "share of positions within reach, 0 left out": float(reach[:, asked != 0].mean()),
        "share within reach, 0 < |s| <= 2": float(reach[:, (np.abs(asked) <= 2) & (asked != 0)].mean()),
        "share of positions within reach that need the expander": float(expander[counted].mean()),
        f"files strictly monotone over {len(asked)} positions until the reach ends": int(monotone.sum()),
        "files bit-exact at 0": sum(row["exact"] for row in rows),
        "loudness (BS.1770) within 1 dB, share of positions": float((loudness <= 1.0).mean()),
        "loudness (BS.1770), largest change (dB)": float(loudness.max()),
        "RMS within 0.5 dB, share of positions": float((np.abs(level_db) <= 0.5).mean()),
        "RMS, largest fall (dB)": float(level_db.min()),
        "RMS, largest rise (dB)": float(level_db.max()),
    }
    print()
    for name, value in figures.items():
        print(f"{name:66s} {value:.4f}" if isinstance(value, float) else f"{name:66s} {value}")
    return figures


def main(argv: list[str] | None = None) -> dict:
    """Run the benchmark; returns its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--files", type=int, default=None, help="only so many, spread over the library")
    parser.add_argument("--positions", type=int, help="so many, spread from -3 to +3")
    parser.add_argument("--unlike", action="store_true")
    args = parser.parse_args(argv)
    positions = tuple(np.linspace(-3, 3, args.positions).round(4)) if args.positions else POSITIONS
    torch.set_num_threads(1)
    sources = find_audio([args.library])
    if args.files:
        sources = [sources[i] for i in np.linspace(0, len(sources) - 1, args.files).round().astype(int)]
    processor = GrainProcessor.load(args.model, "cpu")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as made:
        if args.unlike:
            sources = write_unlike(sources, Path(made))
        jobs = (delayed(render_and_measure)(processor, source, Path(folder), positions) for source in sources)
        rows = Parallel(args.jobs, prefer="threads")(jobs)
    figures = report(rows, positions)
    print(f"\n{len(sources) * len(positions)} renderings in {time.monotonic() - started:.0f} s, {args.jobs} jobs")
    return figures


if __name__ == "__main__":
    main()
