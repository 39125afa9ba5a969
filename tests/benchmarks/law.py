"""The law of the slider on a library: every file rendered at nine positions to real files, and measured again by stage 1.

    python tests/benchmarks/law.py LIBRARY [--model PATH] [-j JOBS] [--files N]

Prints one row a file where something is out of reach or off, then the figures.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from measure_audio_grain import FileGrain, GrainSettings, find_audio, measure_file
from neural_audio_processor import DEFAULT_MODEL, Asked, GrainProcessor, native_dtype

POSITIONS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
MONOTONE_OCTAVES = 0.02


def render_and_measure(processor: GrainProcessor, source: Path, folder: Path) -> dict:
    """Octaves that stage 1 measures between the file and its nine renderings."""
    before = measure_file(source, GrainSettings())
    row = {
        "name": source.name,
        "grain": before.grain,
        "got": [],
        "reach": [],
        "level_db": [],
        "expander": [],
        "exact": False,
    }
    for octaves in POSITIONS:
        output = folder / f"{source.stem}_{octaves}{source.suffix}"
        result = processor.render_file(source, output, Asked(octaves)).rendering
        after = measure_file(output, GrainSettings())
        assert isinstance(after, FileGrain), after
        row["got"].append(math.log2(before.grain / after.grain))
        row["reach"].append(result.within_reach)
        row["level_db"].append(result.level_db)
        row["expander"].append(result.expander_amount != 0)
        if octaves == 0:
            dtype = native_dtype(sf.info(source).subtype)
            row["exact"] = np.array_equal(sf.read(source, dtype=dtype)[0], sf.read(output, dtype=dtype)[0])
        output.unlink()
    return row


def report(rows: list[dict]) -> dict:
    """Print the rows that are out of reach or off, then the figures; returns the figures."""
    asked = np.array(POSITIONS)
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
    monotone = np.all(np.diff(got, axis=1) >= -MONOTONE_OCTAVES, axis=1)
    for row, is_monotone in zip(rows, monotone, strict=True):
        if not is_monotone:
            print(f"not monotone: {row['name']}: {', '.join(f'{g:+.3f}' for g in row['got'])}")
    figures = {
        "files": len(rows),
        "error median (octaves)": float(np.median(error[counted])),
        "error 95th percentile": float(np.percentile(error[counted], 95)),
        "error 99th percentile": float(np.percentile(error[counted], 99)),
        "error maximum": float(error[counted].max()),
        "share of positions within reach, 0 left out": float(reach[:, asked != 0].mean()),
        "share within reach, 0 < |s| <= 2": float(reach[:, (np.abs(asked) <= 2) & (asked != 0)].mean()),
        "share of positions within reach that need the expander": float(expander[counted].mean()),
        "files monotone over the nine positions": int(
            np.sum(np.all(np.diff(got, axis=1) >= -MONOTONE_OCTAVES, axis=1))
        ),
        "files bit-exact at 0": sum(row["exact"] for row in rows),
        "loudness within 0.5 dB, share of positions": float((np.abs(level_db) <= 0.5).mean()),
        "loudness, largest fall (dB)": float(level_db.min()),
        "loudness, largest rise (dB)": float(level_db.max()),
    }
    print()
    for name, value in figures.items():
        print(f"{name:58s} {value:.4f}" if isinstance(value, float) else f"{name:58s} {value}")
    return figures


def main(argv: list[str] | None = None) -> dict:
    """Run the benchmark; returns its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--files", type=int, default=None, help="only so many, spread over the library")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sources = find_audio([args.library])
    if args.files:
        sources = [sources[i] for i in np.linspace(0, len(sources) - 1, args.files).round().astype(int)]
    processor = GrainProcessor.load(args.model, "cpu")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jobs = (delayed(render_and_measure)(processor, source, Path(folder)) for source in sources)
        rows = Parallel(args.jobs, prefer="threads")(jobs)
    figures = report(rows)
    print(f"\n{len(sources) * len(POSITIONS)} renderings in {time.monotonic() - started:.0f} s, {args.jobs} jobs")
    return figures


if __name__ == "__main__":
    main()
