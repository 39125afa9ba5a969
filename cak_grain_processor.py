#!/usr/bin/env python3
"""Learn from a library where grain goes: stage 3 of the Neural Grain Processor.

The model is a conditioning-aware kernel (CAK): output = input + learned pattern x control,

    y = x + D(x) c gate(c) scale,      c gate(c) = 0 at c = 0

(Rockman, "CAK: Emergent Audio Effects from Minimal Deep Learning", arXiv 2508.02643) on the
normalised log-mel picture x, where c gate(c) scale is a first guess at the amount that brings the
grain asked. D is a small convolutional detector with one pattern for c > 0 and one for c < 0, where
theirs has one for all; the control c is in octaves of grain, + smooth, - texture; the gate is
open to both sides of 0. It is trained by an audit game: tiles of the library are moved from their own
grain to others, and three referees judge the result. The noise critic has learned from natural
tiles how loud the noise of each band is and how it rises when a sound has more of it (a Gaussian
whose mean and spread a small network says, trained by likelihood: Nix and Weigend, "Estimating the
mean and variance of the target probability distribution", ICNN 1994), so it can say what the same
tile would be with more or less of its own noise, and asks for that; where the law is sure, also of
tiles that lost their tones in some bands. The resemblance critic asks that a moved tile be like the
natural tiles of its new grain that resemble it most, by their likelihood under a kernel density of
those (Parzen, "On estimation of a probability density function and mode", Annals of Mathematical
Statistics 33, 1962). The less the library's noise follows a law, the more this one says. The
auditor computes from the band powers by how many octaves grain really moved, and charges
|measured - claimed| in both directions.

Reads:  training_pairs.json and the tiles that it names; for the audit, the audio itself
Writes: grain_processor_v2_output/{final_grain_processor_v2.pt, audit.json, audit.png,
        training_history.csv, training_history.png, checkpoints/, samples/}
Exit status: 0 trained and audited; 1 trained, but some held-out file could not be audited;
             2 wrong usage or nothing to learn from; 130 interrupted

    python cak_grain_processor.py
    python cak_grain_processor.py --epochs 200 --seed 1 --device cpu
    torchrun --nproc-per-node 2 cak_grain_processor.py
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from neural_grain.base.cli import exit_process, positive_int_2, progress_bar, run_stage, warn
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import prepare_folder, run_lock
from neural_grain.base.records import write_json
from neural_grain.data.tiles import DEFAULT_PAIRS, TrainingPairs, read_pairs
from neural_grain.learn.audit import audit_model
from neural_grain.learn.checkpoint import model_content, save_checkpoint
from neural_grain.learn.device import choose_device
from neural_grain.learn.figures import draw_audit
from neural_grain.learn.history import EpochScores
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import DEFAULT_MODEL_DIR, FINAL_NAME, TrainSettings
from neural_grain.learn.team import Team
from neural_grain.learn.training import train


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 3."""
    parser = argparse.ArgumentParser(
        prog="cak_grain_processor.py", description="Learn the grain pattern of a library and audit the model."
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        default=Path(DEFAULT_PAIRS),
        metavar="FILE",
        help="what stage 2 wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_MODEL_DIR),
        metavar="FOLDER",
        help="gets the model and its reports (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive_int_2, default=TrainSettings.epochs, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=positive_int_2, default=TrainSettings.batch_size, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=TrainSettings.seed, help="the same seed gives the same model (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    return parser


def _saved_ns(args: argparse.Namespace) -> int | None:
    try:
        return (args.output_dir / "checkpoints" / "latest.pt").stat().st_mtime_ns
    except OSError:
        return None


def _go_on_hint(args: argparse.Namespace, saved_before_ns: int | None) -> str:
    """What to do after Ctrl-C; a checkpoint of an earlier run, which stays, is nothing to go on with."""
    saved_ns = _saved_ns(args)
    is_ours = saved_ns is not None and (args.resume or saved_ns != saved_before_ns)
    return "interrupted; go on with --resume" if is_ours else "interrupted before the first step ended; start again"


def _prepare(args: argparse.Namespace, team: Team, until_the_end: ExitStack) -> tuple[TrainingPairs, str]:
    """What can be found wrong before any work: the pairs and the device to train on."""
    pairs = read_pairs(args.pairs)
    if args.seed < 0:
        raise PipelineError(f"--seed {args.seed}: must be 0 or more")
    if args.batch_size < 2:
        raise PipelineError(f"--batch-size {args.batch_size}: must be 2 or more: half of the tiles go each way")
    if team.is_first:
        for folder in (args.output_dir, args.output_dir / "checkpoints", args.output_dir / "samples"):
            prepare_folder(folder)
        until_the_end.enter_context(run_lock(args.output_dir / FINAL_NAME))
    return pairs, choose_device(args.device, team)


def _run(args: argparse.Namespace, team: Team) -> int:
    settings = TrainSettings(args.epochs, args.batch_size, args.seed)
    with ExitStack() as until_the_end:
        with team.joined():
            pairs, device = team.agreed(lambda: _prepare(args, team, until_the_end))
            among = "" if team.size == 1 else f", {team.size} processes"
            print(
                f"training on {len(pairs.tiles)} tiles of {len(pairs.sources)} files, device {device}{among}",
                file=sys.stderr,
            )
            progress = progress_bar("training", "epoch")
            trained = train(
                pairs, settings, args.output_dir, device=device, resume=args.resume, progress=progress, team=team
            )
        return _finish(args, pairs, settings, *trained) if team.is_first else 0


def _finish(
    args: argparse.Namespace,
    pairs: TrainingPairs,
    settings: TrainSettings,
    model: GrainModel,
    history: list[EpochScores],
    nearer: float,
) -> int:
    """Audit the model, write it and say how it came out; returns the exit status."""
    rows, summary, failures = audit_model(
        pairs,
        model,
        history[-1].held_out_violation,
        nearer,
        args.seed,
        args.pairs.absolute().parent,
        progress_bar("auditing"),
    )
    save_checkpoint(args.output_dir / FINAL_NAME, model_content(model, pairs, settings, history, summary))
    write_json(
        args.output_dir / "audit.json", {"version": 1, "summary": summary, "rows": [asdict(row) for row in rows]}
    )
    draw_audit(args.output_dir / "audit.png", rows, summary["verdict"])
    for failure in failures:
        warn(f"not audited: {failure}")
    print(f"audit: {summary['verdict']}")
    if summary["error_median_octaves"] is not None:
        print(
            f"       error {summary['error_median_octaves']:.3f} octaves in the median, {summary['error_95th_octaves']:.3f} at the 95th percentile; "
            f"{summary['within_reach_share']:.0%} of positions within reach"
        )
    print(f"wrote {args.output_dir / FINAL_NAME}, audit.png, audit.json, training_history.png and .csv beside it")
    print(
        "next: python neural_audio_processor.py"
        + ("" if args.output_dir == Path(DEFAULT_MODEL_DIR) else f" --model {str(args.output_dir / FINAL_NAME)!r}")
    )
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 3 from the command line; returns the exit status."""
    team = Team.of_torchrun()
    with team.heard_once():
        args = build_parser().parse_args(argv)
        saved_before_ns = _saved_ns(args)
        return run_stage(lambda: _run(args, team), lambda: _go_on_hint(args, saved_before_ns))


if __name__ == "__main__":
    exit_process(main())
