#!/usr/bin/env python3
"""Measure the grain of audio files: stage 1 of the Neural Grain Processor.

Grain is spectral flatness (Wiener entropy): in each frame the geometric mean
of the bin powers over their arithmetic mean, and for a file the mean over its
active frames,

    grain = mean_t  exp(mean_k ln P[t, k]) / mean_k P[t, k]

(Johnston, "Transform coding of audio signals using perceptual noise criteria",
IEEE JSAC 6(2), 1988; the same formula as ``librosa.feature.spectral_flatness``).
A held organ chord reads near 0, white noise reads 0.56.

Reads:  audio files in folders (every format that libsndfile knows)
Writes: metadata.json; with --demo first a small library of synthesised sounds
Exit status: 0 all files measured; 1 some could not be (each is named);
             2 wrong usage or nothing to measure; 130 interrupted

    python measure_audio_grain.py
    python measure_audio_grain.py ~/samples/drones take7.wav -o metadata.json
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from neural_grain.audio.sound import AUDIO_EXTENSIONS, find_audio, open_sound
from neural_grain.base.cli import add_parallel_arguments, exit_process, progress_bar, run_stage, warn
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import check_unchanged, file_stamp, prepare_folder, run_lock
from neural_grain.base.parallel import cluster, map_unordered
from neural_grain.base.records import relative_posix
from neural_grain.data.demo import write_demo
from neural_grain.data.metadata import (
    DEFAULT_FOLDERS,
    DEFAULT_METADATA,
    FEW_FILES,
    NARROW_OCTAVES,
    FileGrain,
    Metadata,
    SkippedFile,
    read_metadata,
    write_metadata,
)
from neural_grain.dsp.flatness import grain_spread_octaves, measure_grain
from neural_grain.dsp.settings import GrainSettings


def measure_file(path: Path, settings: GrainSettings) -> FileGrain | SkippedFile:
    """Measure one file; a file that has no grain comes back as skipped, with the reason."""
    size_bytes, mtime_ns = -1, -1
    try:
        size_bytes, mtime_ns = file_stamp(path)
        sound = open_sound(path)
        grain = measure_grain(sound, settings)
        check_unchanged(path, (size_bytes, mtime_ns))
    except PipelineError as err:
        return SkippedFile(path, str(err), size_bytes, mtime_ns)
    return FileGrain(path, grain, sound.n_samples / sound.sr, sound.sr, sound.channels, size_bytes, mtime_ns)


@dataclass(frozen=True)
class MeasureCounts:
    """What a run did: files measured now, taken over unchanged, and gone since the last run."""

    measured: int
    unchanged: int
    gone: int


def measure_folder(
    paths: Iterable[Path],
    earlier: Metadata | None = None,
    *,
    settings: GrainSettings | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    rescue: Callable[[Metadata], None] = lambda metadata: None,
) -> tuple[Metadata, MeasureCounts]:
    """Measure every audio file below ``paths``; what an earlier run measured is taken over if unchanged.

    Parameters
    ----------
    paths : folders and files
    earlier : what an earlier run wrote; not used if its settings are others
    jobs : int >= 1, threads (decoding and the transform run outside Python's lock); see `cluster` for machines
    progress : wraps an iterable of results and its length
    rescue : gets what is measured so far, and what is known of the rest, when the run is interrupted

    Raises
    ------
    PipelineError
        If a path does not exist or no audio file is found.
    """
    settings = settings or GrainSettings()
    paths = list(paths)
    found = find_audio(paths)
    if not found:
        where = ", ".join(f"{path}/" if path.is_dir() else str(path) for path in paths)
        raise PipelineError(f"0 files found in {where} (looked for {' '.join(sorted(AUDIO_EXTENSIONS))})")
    known: dict[Path, FileGrain | SkippedFile] = {}
    if earlier is not None and earlier.settings == settings:
        known = {item.path: item for item in (*earlier.files, *earlier.skipped)}
    results = {path: known[path] for path in found if path in known and _is_unchanged(known[path])}
    wanted = [path for path in found if path not in results]
    wanted.sort(key=_n_bytes, reverse=True)  # no long file is left to one core when all others are done

    def metadata_of(items: dict[Path, FileGrain | SkippedFile]) -> Metadata:
        ordered = [items[path] for path in found if path in items]
        return Metadata(
            settings,
            tuple(item for item in ordered if isinstance(item, FileGrain)),
            tuple(item for item in ordered if isinstance(item, SkippedFile)),
        )

    try:
        for path, item in progress(map_unordered(partial(measure_file, settings=settings), wanted, jobs), len(wanted)):
            results[path] = item
    except KeyboardInterrupt:
        if results:
            rescue(metadata_of(known | results))
        raise
    metadata = metadata_of(results)
    gone = sum(item.path not in results for item in (*earlier.files, *earlier.skipped)) if earlier else 0
    return metadata, MeasureCounts(len(wanted), len(found) - len(wanted), gone)


def _n_bytes(path: Path) -> int:
    with suppress(PipelineError):
        return file_stamp(path)[0]
    return 0  # gone since it was found: measuring it will say so


def _is_unchanged(item: FileGrain | SkippedFile) -> bool:
    try:
        return file_stamp(item.path) == (item.size_bytes, item.mtime_ns)
    except PipelineError:  # gone since it was found: measuring it will say so
        return False


def summarise(metadata: Metadata, base: Path) -> list[str]:
    """The lines a musician reads at the end: grain by folder, a histogram, what to mind."""
    folders: dict[str, list[float]] = {}
    for item in metadata.files:
        folders.setdefault(printable(relative_posix(item.path.parent, base)), []).append(item.grain)
    everything = [item.grain for item in metadata.files]
    if len(folders) > 1:
        folders["all"] = everything
    width = max(map(len, (*folders, "folder")))
    lines = [f"{'folder':<{width}}  files    minimum     median    maximum"]
    lines += [
        f"{name:<{width}}  {len(grains):5d}  {min(grains):9.2e}  {np.median(grains):9.2e}  {max(grains):9.2e}"
        for name, grains in folders.items()
    ]
    octaves = np.floor(np.log2(everything)).astype(int)
    counts = [int(np.sum((octaves == o) | (octaves == o + 1))) for o in range(octaves.min(), octaves.max() + 1, 2)]
    lines += ["", "from grain   files, a row every two octaves (smooth above, grainy below)"]
    lines += [
        f"{2.0 ** (octaves.min() + 2 * row):10.2e}   {count:5d} {'#' * math.ceil(40 * count / max(counts))}"
        for row, count in enumerate(counts)
    ]
    return lines


def library_warnings(grains: list[float]) -> list[str]:
    """What stands in the way of learning from these files, in words; empty if nothing does."""
    warnings = []
    if len(grains) < FEW_FILES:
        warnings.append(f"only {len(grains)} files: a model learns better from {FEW_FILES} or more")
    if grain_spread_octaves(grains) < NARROW_OCTAVES:
        warnings.append(
            f"the files hardly differ in grain ({grain_spread_octaves(grains):.2f} octaves between the 10th and "
            "90th percentile): add smoother and grainier sounds"
        )
    return warnings


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 1."""
    parser = argparse.ArgumentParser(
        prog="measure_audio_grain.py",
        description="Measure the grain (spectral flatness) of every audio file in some folders and write metadata.json.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders or files (default: Drone/ and Harmonic Progression/)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_METADATA),
        metavar="FILE",
        help="what to write (default: %(default)s)",
    )
    add_parallel_arguments(parser, os.cpu_count() or 1)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="first write a small library of synthesised sounds into FOLDER (default: here)",
    )
    return parser


def _paths_to_measure(args: argparse.Namespace) -> list[Path]:
    if args.demo:
        if len(args.paths) > 1:
            raise PipelineError(f"--demo writes into one folder, {len(args.paths)} were given")
        folder = args.paths[0] if args.paths else Path()
        files = write_demo(folder, progress_bar("demo library"))
        print(f"{len(files)} demo sounds in {', '.join(str(folder / name) for name in DEFAULT_FOLDERS)}")
        return [folder / name for name in DEFAULT_FOLDERS]
    if args.paths:
        return args.paths
    paths = [Path(name) for name in DEFAULT_FOLDERS if Path(name).is_dir()]
    if not paths:
        raise PipelineError(
            f"neither {DEFAULT_FOLDERS[0]}/ nor {DEFAULT_FOLDERS[1]}/ is in {Path.cwd()}; name a folder, or try --demo"
        )
    return paths


def _run(args: argparse.Namespace) -> int:
    prepare_folder(args.output.parent)
    paths = _paths_to_measure(args)
    with run_lock(args.output), cluster(args.dask):
        earlier = read_metadata(args.output) if args.output.exists() else None
        metadata, counts = measure_folder(
            paths,
            earlier,
            jobs=args.jobs,
            progress=progress_bar("measuring"),
            rescue=lambda metadata: write_metadata(args.output, metadata),
        )
        write_metadata(args.output, metadata)
    for item in metadata.skipped:
        warn(f"{printable(item.path)}: {item.reason}")
    print(f"{counts.measured} measured, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not metadata.files:
        raise PipelineError(f"none of the {len(metadata.skipped)} files could be measured; each is named above")
    print()
    print("\n".join(summarise(metadata, Path.cwd())))
    print()
    for message in library_warnings([item.grain for item in metadata.files]):
        warn(message)
    print(f"wrote {args.output}: {len(metadata.files)} files, {len(metadata.skipped)} skipped")
    option = "" if args.output == Path(DEFAULT_METADATA) else f" --metadata {str(args.output)!r}"
    print(f"next: python convert_to_spectrograms.py{option}")
    return 1 if metadata.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 1 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args))


if __name__ == "__main__":
    exit_process(main())
