#!/usr/bin/env python3
"""Stage 4 of the Neural Grain Processor: move the grain of audio.

One slider s from -3 (texture) through 0 to +3 (smooth) counts octaves of measured grain:

    grain(out) = grain(in) * 2 ** -s

With --grain, --target-grain, --match, --sweep, --curve, --lfo, --layer or --gain it renders files. Without them it
opens a window. At 0 the output has the samples of the input, bit for bit. --curve and --lfo move the slider over time;
the law then holds for each second, and --report draws what was requested and achieved. --layer writes only the tones or
only the texture of the result; both files add up to it. Alone, it splits the sound as it is. --mix mixes the result
with the input and --gain changes its level; grain is reported as it is measured on what is written.

Reads: a model that stage 3 made, if there is one, and audio files
Writes: NAME_grain-2.0.wav in the current folder, or where -o says; never an input
Exit status: 0 all files rendered; 1 some could not be rendered (each is named);
             2 wrong usage or nothing rendered; 130 interrupted

    python neural_audio_processor.py
    python neural_audio_processor.py drone.wav choir.flac --grain 1.5 -o smoother/
    python neural_audio_processor.py drone.wav --curve swell.txt --report swell.png
"""

from __future__ import annotations

import os

from neural_grain.base.startup import begin_script

if __name__ == "__main__":
    begin_script()  # nothing has started while packages are imported, so Ctrl-C ends the process at once

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from neural_grain.app.batch import JobResult, render_batch
from neural_grain.app.batch_log import open_batch_log
from neural_grain.app.instrument import check_presets, write_presets
from neural_grain.app.plan import plan_batch
from neural_grain.app.processor import DEFAULT_MODEL, NOTHING_LEARNED, GrainProcessor, find_model
from neural_grain.app.report import describe_left_behind, describe_result, rendering_report
from neural_grain.app.report_picture import check_report, draw_report
from neural_grain.app.targets import LAYER_NAMES, RenderTarget, curve_target, match_target, sweep_targets
from neural_grain.audio.formats import check_subtype
from neural_grain.base.cli import (
    MAX_SEED,
    add_parallel_arguments,
    add_version_argument,
    exit_process,
    exit_status,
    number,
    number_within,
    progress_bar,
    run_stage,
    warn,
    whole_number_within,
)
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import remove_leftovers
from neural_grain.base.parallel import cluster
from neural_grain.data.metadata import DEFAULT_FOLDERS
from neural_grain.dsp.curve import LFO_SHAPES, SLIDER_RANGE, Lfo, parse_lfo
from neural_grain.dsp.mix import MAX_GAIN_DB, Mix

DEMO_FOLDER = DEFAULT_FOLDERS[1]
DEMO_INPUT = "demo_harmonic_08.flac"  # a chord progression from the middle of the demo's range of grain
DEMO_TARGETS = [RenderTarget(-2.0), RenderTarget(2.0)]
MIN_SWEEP_STEP = 0.05  # octaves; smaller steps are below the precision of the result
RENDER_OPTIONS = ("grain", "target_grain", "match", "sweep", "curve", "lfo", "layer", "gain")
# Without effect where the window opens.
NO_WINDOW_OPTIONS = (
    "output", "overwrite", "subtype", "jobs", "dask", "json", "report", "curve_fit", "over_time", "seed", "instrument",
    "mix",
)  # fmt: skip
JSON_VERSION = 2


def render_all(args: argparse.Namespace, inputs: list[Path], targets: list[RenderTarget]) -> int:
    """Render the inputs to the targets, report on each, and return the exit status."""
    also_read = [path for path in (args.match, args.curve) if path is not None]
    plan = plan_batch(inputs, targets, args.output, also_read=also_read)
    if args.report is not None:
        check_report(args.report, plan, also_read, overwrite=args.overwrite)
    for line in plan.warnings:
        warn(line)
    if args.instrument:
        check_presets(plan.jobs, overwrite=args.overwrite)
    subtype = None if args.subtype is None else check_subtype(args.subtype)
    if args.model is None:
        warn(NOTHING_LEARNED)
    processor = GrainProcessor.load(args.model, args.device)
    for folder in {job.output.parent for job in plan.jobs if os.path.isdir(job.output.parent)}:
        remove_leftovers(folder)
    report, rendering = BatchReport(len(plan.jobs), args.json), None
    options = {"progress": progress_bar("rendering")} if len(plan.jobs) > 1 else {}
    with open_batch_log(plan.log_folder, args.model, subtype) as log, cluster(args.dask):
        results = render_batch(
            processor, plan.jobs, overwrite=args.overwrite, subtype=subtype, log=log, threads=args.jobs, **options
        )
        for result in results:
            report.add(result)
            rendering = result.rendering  # with --report it is the only one
    status = report.finish()
    try:
        if args.report is not None and rendering is not None:
            draw_report(args.report, rendering, processor.settings, processor.threads)
            print(f"wrote {printable(args.report)}", file=sys.stderr)
        if args.instrument:
            for path in write_presets(plan.jobs):
                print(f"wrote {printable(path)}", file=sys.stderr)
    except PipelineError as err:  # the sounds are there all the same
        print(f"error: {printable(str(err))}", file=sys.stderr)
        return max(status, 1)
    return status


class BatchReport:
    """Prints what became of each file, as lines or as one JSON document.

    Parameters
    ----------
    n_jobs : int
    as_json : bool
    """

    def __init__(self, n_jobs: int, as_json: bool):
        self._n_jobs = n_jobs
        self._as_json = as_json
        self._rendered: list[dict] = []
        self._failed: list[dict] = []
        self._n_unchanged = 0

    def add(self, result: JobResult) -> None:
        """Print one result. Failures go to stderr."""
        job = result.job
        if result.is_unchanged:
            self._n_unchanged += 1
        elif result.failure:
            self._failed.append({"input": str(job.source), "reason": result.failure})
            names_output = str(job.output) in result.failure
            reason = result.failure if names_output else f"{printable(job.source)}: {result.failure}"
            print(f"error: {reason}", file=sys.stderr)
        else:
            self._rendered.append(rendering_report(result.rendering))
            left_behind = describe_left_behind(result.rendering)
            for line in filter(None, (left_behind, *result.rendering.warnings)):
                warn(f"{job.source.name}: {line}")
            if not self._as_json:
                print(f"{printable(job.source.name)}: {describe_result(result.rendering)}")
                print(f"wrote {printable(job.output)}")

    def finish(self) -> int:
        """Print the summary and return the exit status: 0 no failure, 1 some files failed, 2 all failed."""
        if self._as_json:
            results = {"rendered": self._rendered, "failed": self._failed, "unchanged": self._n_unchanged}
            print(json.dumps({"version": JSON_VERSION, **results}, indent=2))
        elif self._n_jobs > 1 or self._n_unchanged:
            print(
                f"{len(self._rendered)} rendered, {self._n_unchanged} unchanged since the last run, "
                f"{len(self._failed)} failed"
            )
        return 0 if not self._failed else 1 if len(self._failed) < self._n_jobs else 2


def option_of(name: str) -> str:
    """The option that sets an attribute of the arguments."""
    return f"--{name.replace('_', '-')}"


def target_argument(text: str) -> float:
    """Parse ``--target-grain``: a grain, which is within 0 to 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no grain: not within 0 to 1")
    return value


def lfo_argument(text: str) -> Lfo:
    """Parse ``--lfo``: RATE_HZ:DEPTH, or with a shape RATE_HZ:DEPTH:SHAPE."""
    try:
        return parse_lfo(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text}: {err}") from err


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of stage 4."""
    parser = argparse.ArgumentParser(
        prog="neural_audio_processor.py",
        description="Move the grain of audio: in a window, or with --grain and similar options directly to files.",
    )
    # Without this, argparse takes -1,5 for an option. From Python 3.14 it has this pattern itself.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    add_version_argument(parser)
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="audio files or folders")
    _add_render_options(parser.add_argument_group("what to render (without any of these, the window opens)"))
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help="output file, or folder (default: NAME_grain-2.0.wav in the current folder); a folder keeps the inputs' tree",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist already (never an input)"
    )
    parser.add_argument(
        "--subtype", metavar="NAME", help="sample format, such as PCM_16, PCM_24 or FLOAT (default: the input's)"
    )
    add_parallel_arguments(parser, 1)
    parser.add_argument(
        "--report", type=Path, metavar="PICTURE.png", help="draw requested and achieved octaves over both spectrograms"
    )
    parser.add_argument("--json", action="store_true", help="print one report for machines instead of lines")
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help=f"(default: {DEFAULT_MODEL}, or a built-in pattern without it)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where a model computes: auto and cpu start at once, cuda and mps load torch first (default: %(default)s)",
    )
    return parser


def _add_render_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that say how far grain is moved, and what becomes of the result."""
    _add_positions(group.add_mutually_exclusive_group())
    _add_refinements(group)


def _add_positions(one: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options that say how far grain is moved, of which one can be given."""
    one.add_argument(
        "--grain",
        type=number_within(-SLIDER_RANGE, SLIDER_RANGE, f"-{SLIDER_RANGE:g} to +{SLIDER_RANGE:g}"),
        metavar="S",
        help="-3 (texture) .. 0 .. +3 (smooth), in octaves of grain",
    )
    one.add_argument(
        "--target-grain",
        type=target_argument,
        metavar="G",
        help="reach this grain, such as 0.02, or come as close as the sound can",
    )
    one.add_argument("--match", type=Path, metavar="REFERENCE", help="reach the grain of this file")
    one.add_argument(
        "--sweep",
        type=number_within(MIN_SWEEP_STEP, SLIDER_RANGE, f"{MIN_SWEEP_STEP:g} to {SLIDER_RANGE:g} octaves"),
        nargs="?",
        const=1.0,
        metavar="STEP",
        help="all positions from -3 to +3 in steps (default: 1)",
    )
    one.add_argument(
        "--demo",
        action="store_true",
        help="open a demo sound in the window, or where there is no display, render it at -2 and +2",
    )
    one.add_argument(
        "--curve", type=Path, metavar="FILE", help="move the slider over time: seconds and positions, in two columns"
    )


def _add_refinements(group: argparse._ArgumentGroup) -> None:
    """Add the options that say more about a position, and how the result is mixed and written."""
    group.add_argument("--curve-fit", action="store_true", help="stretch the curve to the length of each sound")
    group.add_argument(
        "--lfo",
        type=lfo_argument,
        metavar="HZ:DEPTH[:SHAPE]",
        help=f"move the slider around --grain by so many octaves; {', '.join(LFO_SHAPES)} (default: {LFO_SHAPES[0]})",
    )
    group.add_argument(
        "--seed",
        type=whole_number_within(0, MAX_SEED),
        default=0,
        metavar="N",
        help="of a random --lfo (default: %(default)s)",
    )
    group.add_argument(
        "--over-time",
        action="store_true",
        help="follow the grain of --match second by second, over the length of the sound",
    )
    group.add_argument(
        "--instrument",
        action="store_true",
        help="make the positions of --sweep a Decent Sampler instrument, with one knob for grain",
    )
    group.add_argument(
        "--layer",
        choices=LAYER_NAMES,
        help="write only this part of the result, or of the sound as it is if nothing else is chosen here",
    )
    group.add_argument(
        "--mix",
        type=number_within(0, 100, "0 to 100 percent"),
        default=100.0,
        metavar="PERCENT",
        help="mix the result with the input: 0 is the input, 100 the result (default)",
    )
    group.add_argument(
        "--gain",
        type=number_within(-MAX_GAIN_DB, MAX_GAIN_DB, f"-{MAX_GAIN_DB:g} to +{MAX_GAIN_DB:g} dB"),
        metavar="DB",
        help="output gain, after the mix (default: 0)",
    )


def _targets(args: argparse.Namespace) -> list[RenderTarget]:
    """What each input is rendered to."""
    mix = Mix(args.mix / 100 + 0.0, args.gain or 0.0)  # + 0.0 turns -0.0 into 0.0
    return [replace(target, layer=args.layer, mix=mix) for target in _whole_targets(args)]


def _whole_targets(args: argparse.Namespace) -> list[RenderTarget]:
    """The same without the choice of a layer and the mix."""
    if args.sweep is not None:
        return sweep_targets(args.sweep)
    if args.curve is not None:
        return [curve_target(args.curve, fit=args.curve_fit)]
    if args.lfo is not None:
        return [RenderTarget(curve=replace(args.lfo, centre=args.grain or 0.0, seed=args.seed))]
    if args.match is not None:
        return [match_target(args.match, over_time=args.over_time)]
    if args.target_grain is not None:
        return [RenderTarget(target_grain=args.target_grain)]
    return [RenderTarget(args.grain or 0.0)]


def _check_combinations(args: argparse.Namespace) -> None:
    """Raise PipelineError for options that need another one, or exclude each other."""
    if args.curve_fit and args.curve is None:
        raise PipelineError("--curve-fit stretches a curve; give --curve as well")
    if args.over_time and args.match is None:
        raise PipelineError("--over-time follows a reference; give --match as well")
    if args.demo and args.mix != 100:
        raise PipelineError("--mix is for a rendering of yours; leave --demo out")
    if args.instrument and args.sweep is None:
        raise PipelineError("--instrument is made of the positions of --sweep; give that as well")
    if args.instrument and args.layer is not None:
        raise PipelineError("--instrument is made of whole sounds; leave --layer out")
    others = ("target_grain", "match", "sweep", "curve")
    if args.lfo is not None and (other := next((name for name in others if getattr(args, name) is not None), None)):
        raise PipelineError(f"--lfo moves around --grain; leave {option_of(other)} out")
    if args.seed and (args.lfo is None or args.lfo.shape != "random"):
        raise PipelineError("--seed is for a random --lfo")


def _demo_source() -> Path:
    """The sound of the demo library that --demo opens."""
    path = Path(DEMO_FOLDER, DEMO_INPUT)
    if not path.exists():
        raise PipelineError(
            f"no {DEMO_INPUT} in {DEMO_FOLDER}/; make the demo library with: python measure_audio_grain.py --demo"
        )
    return path


def _open_window(args: argparse.Namespace) -> int:
    """Open the window, with the input or the demo sound if there is one."""
    if len(args.inputs) > 1:
        raise PipelineError(
            f"the window opens one file, {len(args.inputs)} were given; give --grain to render them all"
        )
    source = _demo_source() if args.demo else args.inputs[0] if args.inputs else None
    if source is not None and not os.path.isfile(source):
        raise PipelineError(f"{source}: no such file")
    from neural_grain.window.desktop import open_window  # tkinter may be missing, and rendering does not need it

    try:
        return open_window(args.model, args.device, source)
    except PipelineError as err:
        if not args.demo:
            raise
        warn(str(err))
    return render_all(args, [source], DEMO_TARGETS)


def _check_window_options(args: argparse.Namespace) -> None:
    """Raise PipelineError for options that only a rendering heeds."""
    parser = build_parser()
    given = [option_of(name) for name in NO_WINDOW_OPTIONS if getattr(args, name) != parser.get_default(name)]
    if given:
        choice = ", ".join(map(option_of, RENDER_OPTIONS))
        raise PipelineError(f"{' '.join(given)}: only for rendering, not for the window; give one of {choice} as well")


def _run(args: argparse.Namespace) -> int:
    option = next((name for name in RENDER_OPTIONS if getattr(args, name) is not None), None)
    if option is None and not args.demo:
        _check_window_options(args)
    _check_combinations(args)
    args.model = find_model(args.model)
    if args.demo and args.inputs:
        raise PipelineError("--demo brings its own sound; leave INPUT out")
    if option is None:
        return _open_window(args)
    if not args.inputs:
        raise PipelineError(f"{option_of(option)} needs an INPUT to render")
    return render_all(args, args.inputs, _targets(args))


def main(argv: list[str] | None = None) -> int:
    """Run stage 4 from the command line and return the exit status."""
    args = build_parser().parse_args(argv)
    return run_stage(lambda: _run(args))


def command() -> NoReturn:
    """Run stage 4 as an installed command."""
    exit_process(exit_status(main))


if __name__ == "__main__":
    command()
