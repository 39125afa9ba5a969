#!/usr/bin/env python3
"""Stage 1 of the Neural Grain Processor: measure the grain of audio files.

Grain is spectral flatness (Wiener entropy). In each frame it is the geometric mean of the bin powers divided by
their arithmetic mean, and for a file it is the mean over the active frames:

    grain = mean_t  exp(mean_k ln P[t, k]) / mean_k P[t, k]

(Johnston, "Transform coding of audio signals using perceptual noise criteria", IEEE JSAC 6(2), 1988; the same
formula as ``librosa.feature.spectral_flatness``). A held organ chord is close to 0, white noise has 0.56.

Reads: audio files in folders, in every format that libsndfile knows
Writes: metadata.json; with --demo also a small library of synthesised sounds
Exit status: 0 all files measured; 1 some could not be measured (each is named);
             2 wrong usage or nothing to measure; 130 interrupted

    python measure_audio_grain.py
    python measure_audio_grain.py ~/samples/drones take7.wav -o metadata.json
"""

from __future__ import annotations

from neural_grain.base.startup import begin_script

if __name__ == "__main__":
    begin_script()  # nothing has started while packages are imported, so Ctrl-C ends the process at once

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from neural_grain.audio.audio_files import AUDIO_EXTENSIONS, find_audio, unreadable_formats
from neural_grain.audio.sound import open_sound
from neural_grain.base.cli import (
    add_driver_arguments,
    add_parallel_arguments,
    add_version_argument,
    exit_process,
    exit_status,
    progress_bar,
    run_stage,
    warn,
)
from neural_grain.base.errors import PipelineError, SystemRefusal, printable
from neural_grain.base.files import NO_STAMP, check_unchanged, file_stamp, prepare_folder, run_lock
from neural_grain.base.identity import refuse_inputs
from neural_grain.base.parallel import available_cores, cluster
from neural_grain.base.records import read_earlier, relative_posix
from neural_grain.data.demo import write_demo
from neural_grain.data.incremental import EarlierRun, Progress, RunCounts, no_progress, process_files
from neural_grain.data.metadata import (
    DEFAULT_FOLDERS,
    DEFAULT_METADATA,
    FileGrain,
    Metadata,
    SkippedFile,
    is_unchanged,
    library_warnings,
    read_metadata,
    write_metadata,
)
from neural_grain.dsp.flatness import measure_grain
from neural_grain.dsp.settings import GrainSettings


class MeasureRun(NamedTuple):
    """What `measure_folder` returns."""

    metadata: Metadata
    counts: RunCounts


def measure_file(path: Path, settings: GrainSettings) -> FileGrain | SkippedFile:
    """Measure one file. A file that has no grain or can't be read is returned as skipped, with the reason."""
    stamp = NO_STAMP
    try:
        stamp = file_stamp(path)
        sound = open_sound(path)
        grain = measure_grain(sound, settings)
        check_unchanged(path, stamp)
    except PipelineError as err:
        # What the system refuses, such as permission, it may allow later without a change of the file.
        return SkippedFile(path, str(err), *(NO_STAMP if isinstance(err, SystemRefusal) else stamp))
    return FileGrain(path, grain, sound.n_samples / sound.sr, sound.sr, sound.channels, *stamp)


def measure_folder(
    paths: Iterable[Path],
    earlier: Metadata | None = None,
    *,
    settings: GrainSettings | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
    rescue: Callable[[Metadata], None] = lambda metadata: None,
) -> MeasureRun:
    """Measure every audio file below ``paths``, except those that an earlier run measured and that are unchanged.

    Parameters
    ----------
    paths : folders and files
    earlier : what an earlier run wrote; not used if it was measured with other settings
    jobs : int >= 1, threads (decoding and the transform release Python's lock); see `cluster` for several machines
    progress : wraps the results, for a progress bar
    rescue : called on Ctrl-C with what is measured so far and what is known of the other files

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
    run = process_files(
        partial(measure_file, settings=settings),
        {path: path for path in found},
        _earlier_run(earlier, settings, found),
        size_bytes=_size_bytes,
        jobs=jobs,
        progress=progress,
        rescue=lambda results: rescue(_metadata_from(settings, results)),
    )
    return MeasureRun(_metadata_from(settings, run.results), run.counts)


def _earlier_run(
    earlier: Metadata | None, settings: GrainSettings, found: Iterable[Path]
) -> EarlierRun[FileGrain | SkippedFile]:
    """What can be kept of an earlier run. Only the files that were ``found`` are looked up on the disk."""
    if earlier is None:
        return EarlierRun()
    results = earlier.results
    usable = results if earlier.settings == settings else {}
    current = {path: usable[path] for path in found if path in usable and is_unchanged(usable[path])}
    return EarlierRun(frozenset(results), usable, current)


def _metadata_from(settings: GrainSettings, results: list[FileGrain | SkippedFile]) -> Metadata:
    return Metadata(
        settings,
        tuple(item for item in results if isinstance(item, FileGrain)),
        tuple(item for item in results if isinstance(item, SkippedFile)),
    )


def _size_bytes(path: Path) -> int:
    with suppress(PipelineError):
        return file_stamp(path).size_bytes
    return 0  # the file has gone since it was found, and `measure_file` will report that


def summarise(metadata: Metadata, base: Path) -> list[str]:
    """The report of stage 1: a table of grain by folder and a histogram."""
    grains_of: dict[str, list[float]] = {}
    for item in metadata.files:
        grains_of.setdefault(printable(relative_posix(item.path.parent, base)), []).append(item.grain)
    grains = [item.grain for item in metadata.files]
    if len(grains_of) > 1:
        grains_of["all"] = grains
    width = max(map(len, (*grains_of, "folder")))
    table = [f"{'folder':<{width}}  files    minimum     median    maximum"]
    table += [
        f"{name:<{width}}  {len(some):5d}  {min(some):9.2e}  {np.median(some):9.2e}  {max(some):9.2e}"
        for name, some in grains_of.items()
    ]
    return [*table, "", *_histogram(grains)]


def _histogram(grains: list[float]) -> list[str]:
    """Number of files in every two octaves of grain, as lines of text."""
    octaves = np.floor(np.log2(grains)).astype(int)
    first = octaves.min()
    counts = np.bincount((octaves - first) // 2)
    return ["from grain   files, a row every two octaves (smooth above, grainy below)"] + [
        f"{2.0 ** (first + 2 * row):10.2e}   {count:5d} {'#' * math.ceil(40 * count / counts.max())}"
        for row, count in enumerate(counts)
    ]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of stage 1."""
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
    add_parallel_arguments(parser, available_cores())
    add_driver_arguments(parser)
    add_version_argument(parser)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="first write a small library of synthesised sounds into FOLDER (default: here)",
    )
    return parser


def _paths_to_measure(args: argparse.Namespace) -> list[Path]:
    """The folders and files of the command line, after writing the demo library if it is asked for."""
    if args.demo:
        if len(args.paths) > 1:
            raise PipelineError(f"--demo writes into one folder, {len(args.paths)} were given")
        folder = args.paths[0] if args.paths else Path()
        files = write_demo(folder, progress_bar("demo library", as_lines=args.progress == "lines"), args.jobs)
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
    paths = _paths_to_measure(args)
    refuse_inputs([args.output], find_audio(paths))
    prepare_folder(args.output.parent)
    for line in unreadable_formats(paths):
        warn(line)
    with run_lock(args.output), cluster(args.dask):
        earlier = read_earlier(read_metadata, args.output, warn)
        metadata, counts = measure_folder(
            paths,
            earlier,
            jobs=args.jobs,
            progress=progress_bar("measuring", as_lines=args.progress == "lines"),
            rescue=lambda metadata: write_metadata(args.output, metadata),
        )
        write_metadata(args.output, metadata)
    for item in metadata.skipped:
        warn(f"{printable(item.path)}: {item.reason}")
    print(f"{counts.processed} measured, {counts.unchanged} unchanged, {counts.gone} gone since the last run")
    if not metadata.files:
        raise PipelineError(f"none of the {len(metadata.skipped)} files could be measured; each is named above")
    print()
    print("\n".join(summarise(metadata, Path.cwd())))
    print()
    for message in library_warnings(metadata.files):
        warn(message)
    print(f"wrote {args.output}: {len(metadata.files)} files, {len(metadata.skipped)} skipped")
    option = "" if args.output == Path(DEFAULT_METADATA) else f" --metadata {str(args.output)!r}"
    print(f"next: python convert_to_spectrograms.py{option}")
    return 1 if metadata.skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 1 from the command line and return the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args), end_with_stdin=args.end_with_stdin)


def command() -> NoReturn:
    """Run stage 1 as an installed command."""
    exit_process(exit_status(main))


if __name__ == "__main__":
    command()
