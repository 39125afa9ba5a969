#!/usr/bin/env python3
"""Learn from a library what changes when sounds get smoother or grainier: stage 3 of the Neural Grain Processor.

The model is a conditioning-aware kernel (CAK; Rockman, "CAK: Emergent Audio Effects from Minimal Deep Learning",
arXiv 2508.02643). It is trained on the mel tiles of stage 2 by the audit game of `neural_grain.learn.game`; the
training itself is described in `neural_grain.learn.training`. Then files that were not learned from are rendered
across the slider and measured as in stage 1, and the result is reported as the audit.

Reads:  training_pairs.json and the tiles that it names; for the audit, the audio itself
Writes: grain_processor_v2_output/{final_grain_processor_v2.pt, audit.json, audit.png,
        training_history.csv, training_history.png, checkpoints/, samples/}
Exit status: 0 trained and audited; 1 trained, but some held-out files could not be audited;
             2 wrong usage or nothing to learn from; 130 interrupted

    python cak_grain_processor.py
    python cak_grain_processor.py --epochs 200 --seed 1 --device cpu
"""

from __future__ import annotations

from neural_grain.base.startup import begin_script

if __name__ == "__main__":
    begin_script()  # nothing has started while packages are imported, so Ctrl-C ends the process at once

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from neural_grain.base.caches import provide_cache_folder
from neural_grain.base.cli import (
    MAX_SEED,
    add_driver_arguments,
    add_version_argument,
    exit_process,
    exit_status,
    progress_bar,
    run_stage,
    warn,
    whole_number_within,
)
from neural_grain.base.errors import PipelineError
from neural_grain.base.files import prepare_folder, run_lock
from neural_grain.base.identity import refuse_inputs
from neural_grain.base.records import write_json
from neural_grain.data.tiles import DEFAULT_PAIRS, TrainingPairs, group_copies, read_pairs
from neural_grain.learn.settings import (
    AUDIT_NAME,
    AUDIT_VERSION,
    DEFAULT_MODEL_DIR,
    FINAL_NAME,
    LATEST_NAME,
    MAX_BATCH_SIZE,
    MAX_EPOCHS,
    TrainOptions,
)

REPORT_NAMES = (AUDIT_NAME, "audit.png", "training_history.csv", "training_history.png")

if TYPE_CHECKING:  # torch takes seconds to import, so --help and most errors come without it
    from neural_grain.learn.audit import AuditReport
    from neural_grain.learn.training import TrainedModel


def train_and_audit(args: argparse.Namespace) -> int:
    """Run the stage: check everything that can be checked early, train, audit, report; returns the exit status."""
    options = TrainOptions(args.epochs, args.batch_size, args.seed)
    pairs = read_pairs(args.pairs)
    provide_cache_folder()
    refuse_inputs([args.output_dir / name for name in (FINAL_NAME, AUDIT_NAME)], [args.pairs])
    refuse_foreign_reports(args.output_dir)
    for folder in (args.output_dir, args.output_dir / "checkpoints", args.output_dir / "samples"):
        prepare_folder(folder)
    with run_lock(args.output_dir / FINAL_NAME):
        trained = train_model(args, pairs, options)
        report = audit_and_save(args, pairs, options, trained)
    print_report(args.output_dir, report)
    return 1 if report.failures else 0


def refuse_foreign_reports(output_dir: Path) -> None:
    """Raise PipelineError if a report would replace a file that no earlier training wrote, such as the user's audit.json.

    The first thing that a training writes is a checkpoint, so in a folder with neither that nor a model, nothing is ours.
    """
    if any(os.path.lexists(output_dir / name) for name in (FINAL_NAME, LATEST_NAME)):
        return
    for name in REPORT_NAMES:
        if os.path.lexists(output_dir / name):
            raise PipelineError(
                f"{output_dir / name}: exists already, in a folder without a model; choose another --output-dir, or move it"
            )


def train_model(args: argparse.Namespace, pairs: TrainingPairs, options: TrainOptions) -> TrainedModel:
    """Train on the requested device, and say on stderr what is trained on."""
    from neural_grain.learn.dataset import split_tiles
    from neural_grain.learn.device import choose_device
    from neural_grain.learn.training import train

    device = choose_device(args.device)
    n_used, n_tiles = sum(map(len, split_tiles(pairs, options.seed))), len(pairs.tiles)
    used = f"{n_tiles} tiles" if n_used == n_tiles else f"{n_used} of {n_tiles} tiles, drawn evenly over their grain,"
    n_copies = len(pairs.sources) - len(group_copies(pairs))
    copies = f" ({n_copies} are copies of others and stay on their side of the split)" if n_copies else ""
    print(f"training on {used} of {len(pairs.sources)} files{copies}, device {device}", file=sys.stderr)
    return train(
        pairs,
        options,
        args.output_dir,
        device=device,
        resume=args.resume,
        progress=progress_bar("training", "epoch", as_lines=args.progress == "lines"),
    )


def audit_and_save(
    args: argparse.Namespace, pairs: TrainingPairs, options: TrainOptions, trained: TrainedModel
) -> AuditReport:
    """Audit the model on held-out files, and write the model and the audit."""
    from neural_grain.learn.audit import audit_model
    from neural_grain.learn.checkpoint import model_content, save_checkpoint
    from neural_grain.learn.figures import draw_audit

    report = audit_model(
        pairs,
        trained.model,
        held_out_violation=trained.history[-1].held_out_violation,
        nearer_than_one_gain=trained.nearer_than_one_gain,
        seed=options.seed,
        folder=args.pairs.absolute().parent,
        progress=progress_bar("auditing", as_lines=args.progress == "lines"),
    )
    summary = asdict(report.summary)
    content = model_content(trained.model, pairs, options, trained.history, summary)
    save_checkpoint(args.output_dir / FINAL_NAME, content)
    rows = [asdict(row) for row in report.rows]
    write_json(args.output_dir / AUDIT_NAME, {"version": AUDIT_VERSION, "summary": summary, "rows": rows})
    draw_audit(args.output_dir / "audit.png", report)
    return report


def print_report(output_dir: Path, report: AuditReport) -> None:
    """Print the verdict, the figures behind it, what was written and what to do next."""
    summary = report.summary
    for failure in report.failures:
        warn(f"not audited: {failure}")
    print(f"audit: {summary.verdict}")
    if summary.error_median_octaves is not None:
        print(
            f"       error: median {summary.error_median_octaves:.3f} octaves, "
            f"95th percentile {summary.error_95th_octaves:.3f} octaves; "
            f"{summary.within_reach_share:.0%} of the positions are within reach"
        )
    print(f"wrote {output_dir / FINAL_NAME}, audit.png, audit.json, training_history.png and .csv beside it")
    option = "" if output_dir == Path(DEFAULT_MODEL_DIR) else f" --model {str(output_dir / FINAL_NAME)!r}"
    print(f"next: python neural_audio_processor.py{option}")


def latest_checkpoint_ns(output_dir: Path) -> int | None:
    """When the checkpoint that a run can be resumed from was written; None if there is none."""
    try:
        return (output_dir / LATEST_NAME).stat().st_mtime_ns
    except OSError:
        return None


def interrupted_message(args: argparse.Namespace, checkpoint_before_ns: int | None) -> str:
    """What to do after Ctrl-C. An older checkpoint, which a run without --resume leaves alone, is not offered."""
    checkpoint_ns = latest_checkpoint_ns(args.output_dir)
    is_of_this_run = checkpoint_ns is not None and (args.resume or checkpoint_ns != checkpoint_before_ns)
    return (
        "interrupted; continue with --resume"
        if is_of_this_run
        else "interrupted before the first step ended; start again"
    )


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
    defaults = TrainOptions()
    parser.add_argument(
        "--epochs", type=whole_number_within(1, MAX_EPOCHS), default=defaults.epochs, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number_within(1, MAX_BATCH_SIZE),
        default=defaults.batch_size,
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=whole_number_within(0, MAX_SEED),
        default=defaults.seed,
        help="the same seed gives the same model (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="continue where an interrupted run stopped")
    add_driver_arguments(parser)
    add_version_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run stage 3 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    checkpoint_before_ns = latest_checkpoint_ns(args.output_dir)
    return run_stage(
        lambda: train_and_audit(args),
        lambda: interrupted_message(args, checkpoint_before_ns),
        end_with_stdin=args.end_with_stdin,
    )


def command() -> NoReturn:
    """Run stage 3 as an installed command."""
    exit_process(exit_status(main))


if __name__ == "__main__":
    command()
