"""Memory of stages 1, 2 and 4 on one long file, on files with false headers, and of many renderings in a row.

    python tests/benchmarks/memory.py [--hours 1,4,12] [--model PATH] [--headers] [--renderings]

Each row of the first two tables is a process of its own: the peak of its own memory, and of its own and mapped memory
together, which the system can take back at any time. The long file is a chord with noise in mono at 8 kHz. Frames last
as long at every rate, so a stage keeps as much for an hour at 8 kHz as at 48 kHz. Without --model stage 4 uses the built-in pattern.
--headers prints only the table of false headers. --renderings prints only how much memory `move_grain` needs for two
minutes of stereo that it renders many times, as the window does, where all audio is kept in memory.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import soundfile as sf

from neural_grain.audio.sound import Sound, cached_sound, sound_from_array
from neural_grain.dsp.analysis import analyse
from neural_grain.dsp.gain_field import GainField
from neural_grain.dsp.move import move_grain
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.dsp.solver import AmountSolver

ROOT = Path(__file__).resolve().parents[2]
SR = 8_000
POLL_S = 0.02


@dataclass(frozen=True)
class Run:
    """A finished process and its peak memory."""

    status: int
    stderr: str
    own_mb: float
    with_mapped_mb: float
    taken_s: float

    @property
    def columns(self) -> str:
        """Its numbers as columns of the tables."""
        return f"{self.own_mb:7.0f} {self.with_mapped_mb:23.0f} {self.taken_s:8.1f} {self.status:7d}"


def write_long(path: Path, hours: float) -> None:
    """Write a file of some hours, minute by minute; each minute has its own pitch and level of noise."""
    rng = np.random.default_rng(0)
    t = np.arange(60 * SR) / SR
    with sf.SoundFile(path, "w", SR, 1, "PCM_16") as file:
        for minute in range(round(hours * 60)):
            root_hz = 110 * 2 ** ((minute % 12) / 12)
            tone = sum(np.sin(2 * np.pi * root_hz * k * t) / k for k in range(1, 6))
            file.write(0.2 * tone + 10 ** rng.uniform(-4, -1.5) * rng.standard_normal(len(t)))


def write_false_headers(folder: Path) -> list[Path]:
    """Write files of 200 kB whose headers promise channels or lengths that are not there."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 100_000).astype("<i2")
    data = noise.tobytes()
    (folder / "65535_channels.wav").write_bytes(wav_bytes(65_535, 200_000, data))
    (folder / "1024_channels.wav").write_bytes(wav_bytes(1_024, 200_000, data))
    (folder / "2_gigabytes.wav").write_bytes(wav_bytes(1, 0x7FFF_FFFE, data))
    (folder / "no_length.wav").write_bytes(wav_bytes(1, 0xFFFF_FFFF, data))
    (folder / "100000_channels.au").write_bytes(au_bytes(100_000, 0xFFFF_FFF0, data))
    (folder / "2_gigabytes.au").write_bytes(au_bytes(1, 0x7FFF_FFF0, data))
    sf.write(folder / "12_days.flac", noise, 44_100)
    flac = bytearray((folder / "12_days.flac").read_bytes())
    flac[21] |= 0x0F  # the number of samples has 36 bits
    flac[22:26] = b"\xff\xff\xff\xf0"
    (folder / "12_days.flac").write_bytes(flac)
    for name, format_ in (("long.w64", "W64"), ("long.caf", "CAF"), ("long.rf64", "RF64")):
        sf.write(folder / name, noise, 44_100, "PCM_16", format=format_)
        content = bytearray((folder / name).read_bytes())
        for size in (len(data), len(data) + 24, len(data) + 4):  # the formats count different parts of the chunk
            for byte_order in ("<q", ">q"):
                content = content.replace(struct.pack(byte_order, size), struct.pack(byte_order, 1 << 42))
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def wav_bytes(channels: int, n_bytes: int, data: bytes) -> bytes:
    """A 16-bit WAV file whose header promises these channels and this many bytes of data."""
    block_align, byte_rate = 2 * channels & 0xFFFF, 44_100 * 2 * channels & 0xFFFF_FFFF
    form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, 44_100, byte_rate, block_align, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", n_bytes) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def au_bytes(channels: int, n_bytes: int, data: bytes) -> bytes:
    """A 16-bit AU file whose header promises these channels and this many bytes of data."""
    return struct.pack(">6I", 0x2E736E64, 24, n_bytes, 3, 44_100, channels) + data


def run_measured(command: list, cwd: Path) -> Run:
    """Run a Python command and watch its memory."""
    own_kb = with_mapped_kb = 0
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def watch() -> None:
        nonlocal own_kb, with_mapped_kb
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            own_kb = max(own_kb, int(values.get("RssAnon", "0").split()[0]))
            with_mapped_kb = max(with_mapped_kb, int(values.get("VmHWM", "0").split()[0]))
            time.sleep(POLL_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, stderr = process.communicate()
    watcher.join()
    return Run(process.returncode, stderr, own_kb / 1024, with_mapped_kb / 1024, time.monotonic() - started)


def print_false_headers(folder: Path, render: list) -> None:
    """Print a row for each file and stage; ``render`` is the start of stage 4's command."""
    metadata = folder / "false.json"
    for path in write_false_headers(folder / "headers"):
        commands = {
            "measure": [ROOT / "measure_audio_grain.py", path, "-o", metadata],
            "render": [*render, path, "-o", folder / "x.wav", "--overwrite"],
        }
        for stage, command in commands.items():
            run = run_measured(command, folder)
            message = next((line for line in run.stderr.splitlines() if path.name in line), "")
            print(f"{path.name:22s} {stage:8s} {run.columns}  {message[-90:]}", flush=True)
        metadata.unlink(missing_ok=True)


def print_long_file(folder: Path, hours: float, render: list) -> None:
    """Print a row for each stage on one long file."""
    write_long(folder / "long.wav", hours)
    commands = {
        "measure": [ROOT / "measure_audio_grain.py", "long.wav"],
        "convert": [ROOT / "convert_to_spectrograms.py"],
        "render": [*render, "long.wav", "-o", "out.wav", "--overwrite"],
    }
    for stage, command in commands.items():
        run = run_measured(command, folder)
        print(f"{hours:4g} hours {'':11s} {stage:8s} {run.columns}", flush=True)
        if run.status not in (0, 1):
            print(run.stderr[-2_000:])
    n_tiles = len(json.loads((folder / "training_pairs.json").read_text())["tiles"])
    print(f"{'':22s} {n_tiles} tiles", flush=True)
    (folder / "metadata.json").unlink()


def print_renderings() -> None:
    """Print the peak memory of `move_grain` on a sine, which it renders often because it can't be made smoother."""
    sr, settings = 44_100, default_settings(GrainSettings())
    sine = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(120 * sr) / sr)
    analysis = analyse(sound_from_array((sine[:, None] * (1, 0.8)).astype(np.float32), sr), settings)
    solver = AmountSolver(GainField(analysis))
    n_renderings = 0

    def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
        nonlocal n_renderings
        n_renderings += 1
        return cached_sound(like, blocks)

    tracemalloc.start(1)
    move_grain(solver, 2.0, store=store)
    peak_mb, one_mb = tracemalloc.get_traced_memory()[1] / 1e6, sine.size * 2 * 4 / 1e6
    print(f"{n_renderings} renderings of two minutes of stereo ({one_mb:.0f} MB each): peak {peak_mb:.0f} MB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", default="1,4,12")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--headers", action="store_true", help="only the files with false headers")
    parser.add_argument("--renderings", action="store_true", help="only many renderings in a row")
    args = parser.parse_args()
    if args.renderings:
        print_renderings()
        return
    render = [ROOT / "neural_audio_processor.py", "--grain", "-1"]
    if args.model:
        render += ["--model", args.model.absolute()]
    with tempfile.TemporaryDirectory() as name:
        print(f"{'file':22s} stage   own (MB)  with mapped files (MB)  seconds  status", flush=True)
        print_false_headers(Path(name), render)
        for hours in [] if args.headers else map(float, args.hours.split(",")):
            print_long_file(Path(name), hours, render)


if __name__ == "__main__":
    main()
