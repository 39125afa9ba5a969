"""How the window feels: from the command to the window, the longest frozen frame, from a move to the sound.

    xvfb-run python tests/benchmarks/window.py [--model PATH]

Frozen frames are the gaps of a heartbeat of 5 ms while a 10-minute stereo file is opened, slid, played and
saved. From a move to the first changed sample: a stream in place of sounddevice calls back at real block
times, 512 samples; what a device adds of its own is not in it. The same stream says whether every block
is ready while the slider moves for 60 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import tkinter as tk
from pathlib import Path

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import FakeDevice
from speed import SR, music

from neural_grain.app.mixer import Mixer
from neural_grain.app.player import Player
from neural_grain.app.processor import DEFAULT_MODEL, GrainProcessor
from neural_grain.app.window import GrainWindow
from neural_grain.audio.sound import sound_from_array

ROOT = Path(__file__).resolve().parents[2]


def start_s(model: Path) -> float:
    """Seconds from the command until the window is on the screen, median of three."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(ROOT / "neural_audio_processor.py"), "--model", str(model)])
        search = ["xdotool", "search", "--onlyvisible", "--name", "Neural Grain Processor"]
        while subprocess.run(search, capture_output=True).returncode:
            time.sleep(0.02)
        taken.append(time.perf_counter() - started)
        process.kill()
        process.wait()
    return float(np.median(taken))


def frozen(model: Path, folder: Path) -> None:
    """Longest gap of a heartbeat while the window works."""
    source = folder / "ten_minutes.wav"
    with sf.SoundFile(source, "w", SR, 2, "PCM_16") as file:
        for _ in range(10):
            file.write(music(60))
    root = tk.Tk()
    window = GrainWindow(root, model, "cpu", None, player=Player(FakeDevice()), remember=folder / "window.json")
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.perf_counter())
        root.after(5, beat)

    def until(condition, name: str) -> None:
        beats.clear()
        beat_id = time.perf_counter()
        while not condition():
            root.update()
            time.sleep(0.001)
        gap = max(np.diff(beats), default=0.0)
        print(f"  {name:28s} {time.perf_counter() - beat_id:6.2f} s, longest gap {1000 * gap:5.0f} ms", flush=True)

    beat()
    until(lambda: window.has_model, "load the model")
    window.open(source)
    until(lambda: window.looked or window.opened, "open 10 minutes, to a picture")
    until(lambda: window.opened is not None, "and to a sound that slides")
    until(lambda: window.busy == 0, "measure at 0")
    window.toggle_play()
    moves = iter(np.sin(np.arange(200) / 15) * 2.5)
    due = [time.perf_counter()]

    def slid() -> bool:
        if time.perf_counter() >= due[0]:
            due[0] += 0.025
            value = next(moves, None)
            if value is None:
                return True
            window.slider.set(float(value))
        return False

    until(slid, "slide while it plays")
    print(f"  not ready in time while sliding: {window.mixer.underruns} blocks")
    until(lambda: window.busy == 0 and window._settle is None, "measure when the hand rests")
    window.dialogs = type(
        "Answers", (), {"save_name": lambda *_: str(folder / "saved.wav"), "shall_save": lambda *_: False}
    )()
    window.ask_save()
    until(lambda: window.busy == 0, "save")
    window.close()


def latency(model: Path) -> None:
    """From a move to the first changed sample, and the picture's numbers."""
    y = music(30)
    solver = GrainProcessor.load(model, "cpu").solver(sound_from_array(y, SR))
    mixer, player = Mixer(y, SR, solver), Player(FakeDevice())
    mixer.loop((0, len(y)))
    player.play(mixer)
    time.sleep(0.5)
    for sign in (-1.0, 1.0):
        solver.reach(sign)  # as the window does when it opens a file
    rng, taken = np.random.default_rng(0), []
    for _ in range(60):
        started = time.perf_counter()
        amounts = solver.estimate(float(rng.uniform(0.2, 2.5)) * rng.choice((-1, 1)))
        mixer.set_amounts(amounts)
        while mixer.source is None or mixer.source.amounts != amounts:
            time.sleep(0.0005)
        taken.append(time.perf_counter() - started)
        time.sleep(0.05)
    player.close()
    print(
        f"from a move to the first changed sample: median {1e3 * np.median(taken):.0f} ms, largest {1e3 * max(taken):.0f} ms"
    )
    started = time.perf_counter()
    frames = np.linspace(0, solver.analysis.x.shape[1] - 1, 500).astype(int)
    solver.field.gain_db_of_frames(solver.estimate(1.5), frames)
    print(f"gains of the whole picture of 30 s: {1e3 * (time.perf_counter() - started):.0f} ms")


def ready(model: Path, duration_s: float = 60.0) -> None:
    """Whether every block is ready in time while the slider moves, 60 times a second."""
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


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(DEFAULT_MODEL))
    args = parser.parse_args()
    print(f"from the command to the window: {start_s(args.model.absolute()):.2f} s")
    latency(args.model)
    ready(args.model)
    with tempfile.TemporaryDirectory() as folder:
        frozen(args.model, Path(folder))


if __name__ == "__main__":
    main()
