"""How quickly the window answers: when it opens, how long it freezes, and how soon a move of the slider is heard.

    xvfb-run python tests/benchmarks/window.py [--model PATH] [--busy]

Frozen frames are the gaps of a 5 ms timer while a stereo file of 10 minutes is opened, moved, played and saved, and a model is learned. The
delay from a move to the first changed sample is measured with a stream that stands in for sounddevice and calls back
at real block times of 512 samples; the delay of a real device comes on top. The same stream counts the blocks that
are not ready in time while the slider moves for 60 s.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
import tkinter as tk
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import FakeDevice, write_library
from speed import SR, music

from neural_grain.app.processor import DEFAULT_MODEL, GrainProcessor
from neural_grain.audio.sound import sound_from_array
from neural_grain.session.mixer import Mixer
from neural_grain.session.player import Player
from neural_grain.window.window import GrainWindow

ROOT = Path(__file__).resolve().parents[2]


def start_s(model: Path) -> float:
    """Seconds from the command until the window is on the screen, median of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(ROOT / "neural_audio_processor.py"), "--model", str(model)])
        search = ["xdotool", "search", "--onlyvisible", "--name", "Neural Grain Processor"]
        while subprocess.run(search, capture_output=True).returncode:
            time.sleep(0.02)
        times.append(time.perf_counter() - started)
        process.kill()
        process.wait()
    return float(np.median(times))


class Session:
    """A window whose freezes are measured: the gaps of a timer of 5 ms.

    Parameters
    ----------
    window : GrainWindow
    """

    def __init__(self, window: GrainWindow):
        self.window = window
        self._beats: list[float] = []
        self._beat()

    def _beat(self) -> None:
        self._beats.append(time.perf_counter())
        self.window.root.after(5, self._beat)

    def run_until(self, condition: Callable[[], object], step: str) -> None:
        """Run the event loop until a condition is true, and print how long that took and the longest gap in it."""
        self._beats.clear()
        started = time.perf_counter()
        while not condition():
            self.window.root.update()
            time.sleep(0.001)
        gap = max(np.diff(self._beats), default=0.0)
        print(f"  {step:28s} {time.perf_counter() - started:6.2f} s, longest gap {1000 * gap:5.0f} ms", flush=True)

    def move_until(self, condition: Callable[[], object], step: str, n_most: int) -> None:
        """The same while the slider moves every 25 ms, at most so many times."""
        moves, next_move = iter(np.sin(np.arange(n_most) / 15) * 2.5), 0.0

        def is_over() -> bool:
            nonlocal next_move
            if time.perf_counter() >= next_move:
                next_move = time.perf_counter() + 0.025
                octaves = next(moves, None)
                if octaves is None:
                    return True
                self.window.settings.move_to(float(octaves))
            return bool(condition())

        self.run_until(is_over, step)


def print_freezes(model: Path, folder: Path) -> None:
    """Duration of each step of a session, and the longest gap of the timer in it."""
    source = folder / "ten_minutes.wav"
    with sf.SoundFile(source, "w", SR, 2, "PCM_16") as file:
        for _ in range(10):
            file.write(music(60))
    player, preferences_file = Player(FakeDevice()), folder / "window.json"
    window = GrainWindow(
        tk.Tk(), model, "cpu", player=player, preferences_file=preferences_file, models=folder / "models"
    )
    session = Session(window)
    session.run_until(lambda: window.session.processor, "load the model")
    window.open(source)
    session.run_until(lambda: window.session.visible, "open 10 minutes, to a picture")
    session.run_until(lambda: window.session.opened, "... until the slider works")
    session.run_until(lambda: window.is_idle, "measure at 0")
    window.transport.toggle_play()
    session.move_until(lambda: False, "move while it plays", 200)
    print(f"  not ready in time while moving: {window.playback.mixer.underruns} blocks")
    session.run_until(lambda: window.is_idle, "measure when the slider rests")
    for _ in range(3):
        window.view.show_next()
        session.run_until(lambda: window.panel.is_drawn, f"show {window.panel.view}")
    window.settings.toggle_curve()
    window.curve.shape("sine")
    session.run_until(lambda: window.is_idle, "a curve over 10 minutes")
    window.settings.toggle_curve()
    window.dialogs = SimpleNamespace(save_name=lambda *_: str(folder / "saved.wav"), should_save=lambda: False)
    window.files.ask_save()
    session.run_until(lambda: window.is_idle, "save")
    print_learning(session, write_library(folder / "library", duration_s=10.0))
    print(f"  largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    window.close()


def print_learning(session: Session, library: Path) -> None:
    """The same while a model is learned and the slider moves."""
    learn = session.window.learn
    learn.open()
    learn.add_folders([library])
    session.run_until(lambda: learn.state().can_start, "count the files to learn from")
    learn.start("benchmark", "2")
    session.move_until(lambda: not learn.is_learning, "move while a model is learned", 10_000)


def print_latency(model: Path) -> None:
    """Delay from a move to the first changed sample, and the time that the gains of a picture take."""
    y = music(30)
    solver = GrainProcessor.load(model, "cpu").solver(sound_from_array(y, SR))
    mixer, player = Mixer(y, SR, solver), Player(FakeDevice())
    mixer.loop((0, len(y)))
    player.play(mixer)
    time.sleep(0.5)
    for sign in (-1.0, 1.0):
        solver.reach(sign)  # the window does the same when it opens a file
    rng, delays = np.random.default_rng(0), []
    for _ in range(60):
        started = time.perf_counter()
        amounts = solver.estimate(float(rng.uniform(0.2, 2.5)) * rng.choice((-1, 1)))
        mixer.set_amounts(amounts)
        while mixer.source is None or mixer.source.amounts != amounts:
            time.sleep(0.0005)
        delays.append(time.perf_counter() - started)
        time.sleep(0.05)
    player.close()
    print(
        f"from a move to the first changed sample: median {1e3 * np.median(delays):.0f} ms, largest {1e3 * max(delays):.0f} ms"
    )
    started = time.perf_counter()
    frames = np.linspace(0, solver.analysis.x.shape[1] - 1, 500).astype(int)
    solver.field.gain_db_of_frames(solver.estimate(1.5), frames)
    print(f"gains of the whole picture of 30 s: {1e3 * (time.perf_counter() - started):.0f} ms")


def print_underruns(model: Path, duration_s: float = 60.0) -> None:
    """How many blocks are not ready in time while the slider moves 60 times a second."""
    y = music(30)
    solver, device = GrainProcessor.load(model, "cpu").solver(sound_from_array(y, SR)), FakeDevice()
    mixer, player = Mixer(y, SR, solver), Player(device)
    mixer.loop((0, len(y)))
    player.play(mixer)
    started, moves = time.monotonic(), 0
    while time.monotonic() < started + duration_s:
        moves += 1
        mixer.set_amounts(solver.estimate(2.5 * np.sin(moves / 20) or 0.1))
        time.sleep(1 / 60)
    stream = device.streams[0]
    player.close()
    print(
        f"{moves} moves in {duration_s:.0f} s, {len(stream.heard)} blocks of {device.block}: "
        f"{mixer.underruns} not ready, {stream.late} callbacks longer than a block"
    )


def keep_busy() -> None:
    """Compute without end, as another program on the same machine would."""
    rng = np.random.default_rng(0)
    while True:
        np.fft.rfft(rng.standard_normal(1 << 16))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    parser.add_argument("--busy", action="store_true", help="keep one core busy with other work meanwhile")
    args = parser.parse_args()
    if args.busy:
        multiprocessing.Process(target=keep_busy, daemon=True).start()
    print(f"from the command to the window: {start_s(args.model.absolute()):.2f} s")
    print_latency(args.model)
    print_underruns(args.model)
    with tempfile.TemporaryDirectory() as folder:
        print_freezes(args.model, Path(folder))


if __name__ == "__main__":
    main()
