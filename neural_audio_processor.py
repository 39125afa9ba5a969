#!/usr/bin/env python3
"""Move the grain of audio with a learned model: stage 4 of the Neural Grain Processor.

One slider s from -3 (texture) through 0 to +3 (smooth), in octaves of measured grain:

    grain(out) = grain(in) * 2 ** -s

With --grain it renders files and ends; without, it opens a window. 0 gives the input's
samples back bit for bit.

Reads:  a model that stage 3 made, and audio files
Writes: NAME_grain-2.0.wav in the current folder, or what -o names; never the input
Exit status: 0 all rendered; 1 some could not be (each is named);
             2 wrong usage or nothing rendered; 130 interrupted

    python neural_audio_processor.py
    python neural_audio_processor.py drone.wav --grain -2
    python neural_audio_processor.py drone.wav choir.flac --grain 1.5 -o smoother/
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import json
from collections import Counter
from pathlib import Path

from neural_grain.app.batch import BATCH_LOG, BatchLog, Job, render_batch
from neural_grain.app.processor import (
    DEFAULT_MODEL,
    SLIDER_RANGE,
    GrainProcessor,
    RenderTarget,
    describe_rendering,
    output_name,
    rendering_report,
)
from neural_grain.app.window import open_window
from neural_grain.audio.formats import check_subtype
from neural_grain.audio.sound import AUDIO_EXTENSIONS, find_audio, open_sound
from neural_grain.base.cli import add_parallel_arguments, exit_process, progress_bar, run_stage, warn
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import prepare_folder, remove_leftovers, run_lock
from neural_grain.base.parallel import cluster
from neural_grain.data.metadata import DEFAULT_FOLDERS
from neural_grain.dsp.flatness import measure_grain

DEMO_INPUT = "demo_harmonic_08.flac"  # a chord progression from the middle of the demo's range of grain
DEMO_POSITIONS = (-2.0, 2.0)


def grain_argument(text: str) -> float:
    """``--grain``: a finite number within the slider's range."""
    value = float(text)
    if not abs(value) <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within -{SLIDER_RANGE:g} to +{SLIDER_RANGE:g}")
    return value


def target_argument(text: str) -> float:
    """``--target-grain``: a grain, which lies between 0 and 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no grain: not within 0 to 1")
    return value


def sweep_argument(text: str) -> float:
    """``--sweep``: a step in octaves."""
    value = float(text)
    if not 0.05 <= value <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within 0.05 to {SLIDER_RANGE:g} octaves")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 4."""
    parser = argparse.ArgumentParser(
        prog="neural_audio_processor.py",
        description="Move the grain of audio: in a window, or with --grain and the like straight to files.",
    )
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="audio files or folders")
    asked = parser.add_argument_group("what to render (one of them; without, the window opens)")
    one = asked.add_mutually_exclusive_group()
    one.add_argument(
        "--grain", type=grain_argument, metavar="S", help="-3 (texture) .. 0 .. +3 (smooth), in octaves of grain"
    )
    one.add_argument(
        "--target-grain",
        type=target_argument,
        metavar="G",
        help="reach this grain, such as 0.02 (at most about 3 octaves away)",
    )
    one.add_argument("--match", type=Path, metavar="REFERENCE", help="reach the grain of this file")
    one.add_argument(
        "--sweep",
        type=sweep_argument,
        nargs="?",
        const=1.0,
        metavar="STEP",
        help="all positions from -3 to +3 in steps (default: 1)",
    )
    one.add_argument(
        "--demo",
        action="store_true",
        help="a demo sound in the window, or where there is no display, rendered at -2 and +2",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help="output file, or folder (default: NAME_grain-2.0.wav in the current folder); a folder keeps the inputs' tree",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist already (never the input)"
    )
    parser.add_argument(
        "--subtype", metavar="NAME", help="sample format, such as PCM_16, PCM_24 or FLOAT (default: the input's)"
    )
    add_parallel_arguments(parser, 1)
    parser.add_argument("--json", action="store_true", help="print one report for machines instead of lines")
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), metavar="PATH", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    return parser


def _positions(args: argparse.Namespace) -> list[RenderTarget]:
    """What is asked of each input."""
    if args.sweep is not None:
        n = int(SLIDER_RANGE / args.sweep + 1e-9)
        return [RenderTarget(round(i * args.sweep, 4) + 0.0) for i in range(-n, n + 1)]
    if args.match is not None:
        try:
            return [RenderTarget(target_grain=measure_grain(open_sound(args.match)))]
        except PipelineError as err:
            raise PipelineError(f"--match {printable(args.match)}: {err}") from err
    return [RenderTarget(target_grain=args.target_grain) if args.target_grain else RenderTarget(args.grain)]


def _batch(args: argparse.Namespace) -> tuple[list[Job], Path | None]:
    """What to render, and the output folder where a log of it is kept (only of several)."""
    asked = _positions(args)
    found: dict[Path, Path] = {}  # each file and the folder that its tree starts from
    for path in args.inputs:
        for source in find_audio([path]):
            found.setdefault(source, Path(os.path.abspath(path)) if path.is_dir() else source.parent)
    if not found:
        raise PipelineError(
            f"0 files found in {', '.join(map(printable, args.inputs))} (looked for {' '.join(sorted(AUDIO_EXTENSIONS))})"
        )
    n_outputs = len(found) * len(asked)
    if args.output is not None and not args.output.endswith("/") and not os.path.isdir(args.output):
        if n_outputs > 1:
            raise PipelineError(f"-o {args.output}: {n_outputs} outputs need a folder; end it with /")
        return [Job(next(iter(found)), Path(args.output), asked[0])], None
    folder = Path(args.output or ".")
    twins = Counter(source.with_suffix("") for source in found)  # a.wav and a.flac keep their extensions
    batch = [
        Job(source, folder / source.parent.relative_to(base) / output_name(name, each), each)
        for source, base in found.items()
        for name in [source.with_name(f"{source.name}.wav") if twins[source.with_suffix("")] > 1 else source]
        for each in asked
    ]
    taken: dict[Path, Path] = {}
    for job in batch:
        if taken.setdefault(job.output, job.source) != job.source:
            raise PipelineError(
                f"{printable(job.output)}: both {printable(taken[job.output])} and {printable(job.source)} would go there"
            )
    return batch, folder if n_outputs > 1 and args.output is not None else None


def render_all(args: argparse.Namespace, batch: list[Job], log_folder: Path | None) -> int:
    """Render what is asked, say what became of each file, go on past those that fail.

    Returns
    -------
    exit status: 0 all, 1 some, 2 none
    """
    if args.subtype is not None:
        args.subtype = check_subtype(args.subtype)
    # Other machines need not have the accelerator of this one.
    device = "cpu" if args.dask is not None and args.device == "auto" else args.device
    processor = GrainProcessor.load(args.model, device)
    for folder in {job.output.parent for job in batch if job.output.parent.is_dir()}:
        remove_leftovers(folder)
    if log_folder is None:
        return _render_each(args, processor, batch, None)
    prepare_folder(log_folder)
    with run_lock(log_folder / BATCH_LOG):
        return _render_each(args, processor, batch, BatchLog(log_folder, args.model, args.subtype))


def _render_each(args: argparse.Namespace, processor: GrainProcessor, batch: list[Job], log: BatchLog | None) -> int:
    reports, failures, n_before = [], [], 0
    progress = progress_bar("rendering") if len(batch) > 1 else lambda items, total: items
    results = render_batch(
        processor, batch, overwrite=args.overwrite, subtype=args.subtype, log=log, jobs=args.jobs, progress=progress
    )
    with cluster(args.dask):
        for job, result in results:
            if result is None:
                n_before += 1
            elif isinstance(result, str):
                reason = result if str(job.output) in result else f"{printable(job.source)}: {result}"
                failures.append({"input": str(job.source), "reason": result})
                print(f"error: {reason}", file=sys.stderr)
            else:
                reports.append(rendering_report(result))
                if not args.json:
                    print(f"{printable(job.source.name)}: {describe_rendering(result.rendering)}")
                    print(f"wrote {printable(job.output)}")
    if args.json:
        print(json.dumps({"version": 1, "rendered": reports, "failed": failures, "unchanged": n_before}, indent=2))
    elif len(batch) > 1:
        print(f"{len(reports)} rendered, {n_before} unchanged since the last run, {len(failures)} failed")
    return 0 if not failures else 1 if len(failures) < len(batch) else 2


def _demo_input() -> Path:
    for path in (Path(folder, DEMO_INPUT) for folder in DEFAULT_FOLDERS):
        if path.exists():
            return path
    raise PipelineError(
        f"no {DEMO_INPUT} in {DEFAULT_FOLDERS[1]}/; make the demo library with: python measure_audio_grain.py --demo"
    )


def _run(args: argparse.Namespace) -> int:
    if not args.model.exists():
        raise PipelineError(f"{args.model}: no model there yet; make one with: python cak_grain_processor.py")
    if args.demo and args.inputs:
        raise PipelineError("--demo brings its own sound; leave INPUT out")
    for name in ("grain", "target_grain", "match", "sweep"):
        if getattr(args, name) is not None:
            if not args.inputs:
                raise PipelineError(f"--{name.replace('_', '-')} needs an INPUT to render")
            return render_all(args, *_batch(args))
    if len(args.inputs) > 1:
        raise PipelineError(
            f"the window opens one file, {len(args.inputs)} were given; give --grain to render them all"
        )
    source = _demo_input() if args.demo else args.inputs[0] if args.inputs else None
    if source is not None and not source.is_file():
        raise PipelineError(f"{source}: no such file")
    try:
        return open_window(args.model, args.device, source)
    except PipelineError as err:
        if not args.demo:
            raise
        warn(f"{printable(str(err))}")
    args.overwrite, folder = True, Path(args.output or ".")
    asked = [RenderTarget(octaves) for octaves in DEMO_POSITIONS]
    return render_all(args, [Job(source, folder / output_name(source, each), each) for each in asked], None)


def main(argv: list[str] | None = None) -> int:
    """Run stage 4 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args))


if __name__ == "__main__":
    exit_process(main())
