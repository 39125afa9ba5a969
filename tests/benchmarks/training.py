"""Where the time of a training step goes, and whether another device learns what the CPU learns.

    python tests/benchmarks/training.py PROJECT [--devices cpu,cuda] [--steps 40] [--epochs 100]

PROJECT is a folder in which stages 1 and 2 have run. For each device the first table shows the parts of a step in
milliseconds, medians over steps; a GPU is waited for after each part. If there are two devices, the gradient of one
step is compared weight by weight. With --epochs, all devices then train from the same seed, at the same time, each in a
process of its own: the time, the peak memory, the scores of the first and the last epoch, and how far the patterns of
both models are apart on held-out tiles, where the spread of the patterns themselves gives the scale.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from neural_grain.data.tiles import TrainingPairs, read_pairs
from neural_grain.learn.adam import Adam
from neural_grain.learn.dataset import Library, load_library
from neural_grain.learn.device import choose_device
from neural_grain.learn.game import AuditGame
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import optimise, total_loss, train

WARM_UP_STEPS = 3  # a GPU chooses its convolutions in the first
SHOWN_SCORES = ("distance", "violation_texture", "violation_smooth", "held_out_distance", "held_out_violation")


class Stopwatch:
    """Adds up the time that wrapped functions take, a GPU's pending work included."""

    def __init__(self, device: str):
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._device = device

    def now(self) -> float:
        """The time when all work of the device is done."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, name: str, function: Callable) -> Callable:
        """The same function, whose calls are timed."""

        def call(*args: object, **options: object) -> object:
            started = self.now()
            result = function(*args, **options)
            self.seconds[name].append(self.now() - started)
            return result

        return call

    def median_ms(self, name: str) -> float:
        """Median of a part after the warm-up, in milliseconds."""
        return 1e3 * float(np.median(self.seconds[name][WARM_UP_STEPS:]))


def begin(pairs: TrainingPairs, library: Library, device: str) -> tuple[AuditGame, GrainModel]:
    """The game, and a model whose last layer is not zero, so that all weights have gradients."""
    torch.manual_seed(0)
    model = GrainModel(pairs.settings, library.texture)
    torch.nn.init.constant_(model.detector.mix.weight, 0.1)
    return AuditGame(pairs.settings, device), model.to(device)


def print_step(pairs: TrainingPairs, library: Library, device: str, n_steps: int) -> None:
    """Print the time of a step and of its parts."""
    game, model = begin(pairs, library, device)
    optimizer = Adam(model.parameters())
    watch, rng, batch_size = Stopwatch(device), np.random.default_rng(0), TrainOptions().batch_size
    model.detector.forward = watch.timed("D", model.detector.forward)
    game.solve_amount = watch.timed("amounts by bisection", game.solve_amount)
    judge, update = watch.timed("judging", game.judge), watch.timed("gradients and Adam", optimise)
    draw = watch.timed("drawing pairs", game.draw_pairs)

    def step() -> None:
        pair = draw(library.train, batch_size, rng)
        update(model, optimizer, total_loss(judge(model, pair)))

    step = watch.timed("step", step)
    for _ in range(WARM_UP_STEPS + n_steps):
        step()
    parts = {name: watch.median_ms(name) for name in watch.seconds}
    parts["referees"] = parts.pop("judging") - parts["D"] - parts["amounts by bisection"]
    whole = parts.pop("step")
    print(f"{device}, {torch.get_num_threads()} threads, {batch_size} tiles: {whole:.1f} ms a step")
    for name, taken in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:22s} {taken:7.1f} ms  {taken / whole:4.0%}", flush=True)


def gradients(pairs: TrainingPairs, library: Library, device: str) -> dict[str, torch.Tensor]:
    """Gradients of the loss of the first step."""
    game, model = begin(pairs, library, device)
    pair = game.draw_pairs(library.train, TrainOptions().batch_size, np.random.default_rng(0))
    total_loss(game.judge(model, pair)).backward()
    return {name: weight.grad.double().cpu() for name, weight in model.named_parameters()}


def print_gradients(expected: dict[str, torch.Tensor], computed: dict[str, torch.Tensor], devices: list[str]) -> None:
    """Print the relative difference of each weight's gradient."""
    print(f"gradient of one step, {devices[1]} against {devices[0]}: relative difference")
    for name, gradient in expected.items():
        relative = float((computed[name] - gradient).norm() / gradient.norm())
        print(f"  {name:28s} {relative:.1e}", flush=True)


def run_training(project: Path, device: str, epochs: int, folder: Path) -> None:
    """Train in this process, and write the model and a report into a folder."""
    for name in ("checkpoints", "samples"):
        (folder / name).mkdir(parents=True)
    pairs = read_pairs(project / "training_pairs.json")
    started = time.perf_counter()
    trained = train(pairs, TrainOptions(epochs=epochs), folder, device=device)
    report = {
        "seconds": time.perf_counter() - started,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
        "history": [{name: getattr(row, name) for name in SHOWN_SCORES} for row in trained.history],
        "nearer": trained.nearer_than_one_gain,
    }
    torch.save(trained.model.cpu(), folder / "model.pt")
    (folder / "report.json").write_text(json.dumps(report))


def print_trainings(project: Path, devices: list[str], epochs: int, work: Path) -> None:
    """Train on all devices and print the reports."""
    command = [sys.executable, __file__, str(project), "--epochs", str(epochs), "--train"]
    runs = [subprocess.Popen([*command, device, str(work / device)]) for device in devices]
    if any([run.wait() for run in runs]):
        sys.exit("a training failed")
    models = []
    for device in devices:
        folder = work / device
        report = json.loads((folder / "report.json").read_text())
        print(
            f"{device}: {epochs} epochs in {report['seconds']:.0f} s, {report['memory_mb']:.0f} MB, "
            f"{report['device_mb']:.0f} MB on the card; held-out tiles {report['nearer']:.0%} nearer than one gain"
        )
        for at in (0, len(report["history"]) - 1):
            scores = "  ".join(f"{name} {report['history'][at][name]:.4f}" for name in SHOWN_SCORES)
            print(f"  epoch {at + 1:3d}: {scores}", flush=True)
        models.append(torch.load(folder / "model.pt", weights_only=False))
    if len(models) == 2:
        print_patterns(read_pairs(project / "training_pairs.json"), models)


@torch.no_grad()
def print_patterns(pairs: TrainingPairs, models: list[GrainModel]) -> None:
    """Print how far the patterns of two models are apart on held-out tiles."""
    tiles = load_library(pairs, 0).held_out
    patterns = [model.detector(tiles.tones, tiles.texture).numpy() for model in models]
    apart = float(np.sqrt(np.mean((patterns[0] - patterns[1]) ** 2)))
    spread = float(np.std(patterns[0]))
    print(f"patterns of both on {len(tiles.tones)} held-out tiles: {apart:.2f} dB RMS apart, spread {spread:.2f} dB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        run_training(args.project, choose_device(args.train[0]), args.epochs, Path(args.train[1]))
        return
    devices = [choose_device(device) for device in args.devices.split(",")]
    pairs = read_pairs(args.project / "training_pairs.json")
    libraries = {device: load_library(pairs, 0, device) for device in devices}
    for device in devices:
        print_step(pairs, libraries[device], device, args.steps)
    if len(devices) == 2:
        print_gradients(*(gradients(pairs, libraries[device], device) for device in devices), devices)
    if args.epochs:
        with tempfile.TemporaryDirectory() as folder:
            print_trainings(args.project, devices, args.epochs, Path(folder))


if __name__ == "__main__":
    main()
