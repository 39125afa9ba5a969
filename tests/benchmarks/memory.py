"""Memory of stages 1, 2 and 4 on one long file, and on files whose headers lie.

    python tests/benchmarks/memory.py [--hours 1,4,12] [--model PATH] [--lies]

Each row is a process of its own: the peak of its own memory, and of it together with mapped files, which the system can
take back at any time. The long file is a chord with noise, 8 kHz, mono; frames last as long at every rate, so what a
stage keeps per hour is the same at 48 kHz. Without --model stage 4 is left out.
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
from pathlib import Path

import numpy as np
import soundfile as sf

ROOT = Path(__file__).resolve().parents[2]
SR = 8_000


def write_long(path: Path, hours: float) -> None:
    """A file of some hours, a minute at a time; each minute is a little different."""
    rng = np.random.default_rng(0)
    t = np.arange(60 * SR) / SR
    with sf.SoundFile(path, "w", SR, 1, "PCM_16") as file:
        for minute in range(round(hours * 60)):
            root_hz = 110 * 2 ** ((minute % 12) / 12)
            tone = sum(np.sin(2 * np.pi * root_hz * k * t) / k for k in range(1, 6))
            file.write(0.2 * tone + 10 ** rng.uniform(-4, -1.5) * rng.standard_normal(len(t)))


def write_lies(folder: Path) -> list[Path]:
    """Files of a few kB whose headers promise channels or lengths that are not there."""

    def wav(name: str, channels: int, n_bytes: int, data: bytes) -> None:
        block = 2 * channels & 0xFFFF
        form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, 44_100, 44_100 * 2 * channels & 0xFFFF_FFFF, block, 16)
        chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", n_bytes) + data
        (folder / name).write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)

    folder.mkdir()
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 100_000).astype("<i2")
    wav("65535_channels.wav", 65_535, 200_000, noise.tobytes())
    wav("1024_channels.wav", 1_024, 200_000, noise.tobytes())
    wav("2_gigabytes.wav", 1, 0x7FFF_FFFE, noise.tobytes())
    wav("no_length.wav", 1, 0xFFFF_FFFF, noise.tobytes())
    au = struct.pack(">6I", 0x2E736E64, 24, 0xFFFF_FFF0, 3, 44_100, 100_000)
    (folder / "100000_channels.au").write_bytes(au + noise.tobytes())
    au = struct.pack(">6I", 0x2E736E64, 24, 0x7FFF_FFF0, 3, 44_100, 1)
    (folder / "2_gigabytes.au").write_bytes(au + noise.tobytes())
    sf.write(folder / "12_days.flac", noise, 44_100)
    flac = bytearray((folder / "12_days.flac").read_bytes())
    flac[21] |= 0x0F  # the total of samples, 36 bits
    flac[22:26] = b"\xff\xff\xff\xf0"
    (folder / "12_days.flac").write_bytes(flac)
    for name, format_ in (("long.w64", "W64"), ("long.caf", "CAF"), ("long.rf64", "RF64")):
        sf.write(folder / name, noise, 44_100, "PCM_16", format=format_)
        content = bytearray((folder / name).read_bytes())
        for size in (len(noise) * 2, len(noise) * 2 + 24, len(noise) * 2 + 4):
            for order in ("<q", ">q"):
                content = content.replace(struct.pack(order, size), struct.pack(order, 1 << 42))
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def peak_of(command: list, cwd: Path) -> tuple[int, str, str, float, float, float]:
    """Status, stdout, stderr, peak of own and of all memory in MB, and seconds."""
    own = whole = 0
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def watch() -> None:
        nonlocal own, whole
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            own = max(own, int(values.get("RssAnon", "0").split()[0]))
            whole = max(whole, int(values.get("VmHWM", "0").split()[0]))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    return process.returncode, out, err, own / 1024, whole / 1024, time.monotonic() - started


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", default="1,4,12")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lies", action="store_true", help="only the headers that lie")
    args = parser.parse_args()
    render = [ROOT / "neural_audio_processor.py", "--grain", "-1", "--model", args.model and args.model.absolute()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'file':22s} stage   own (MB)  with mapped files (MB)  seconds  status", flush=True)
        for path in write_lies(folder / "lies"):
            rows = [("measure", [ROOT / "measure_audio_grain.py", path, "-o", folder / "lie.json"])]
            rows += [("render", [*render, path, "-o", folder / "x.wav", "--overwrite"])] if args.model else []
            for stage, command in rows:
                status, _, err, own, whole, seconds = peak_of(command, folder)
                line = next((x for x in err.splitlines() if path.name in x), "")
                print(f"{path.name:22s} {stage:8s} {own:7.0f} {whole:23.0f} {seconds:8.1f} {status:7d}  {line[-90:]}")
            (folder / "lie.json").unlink(missing_ok=True)
        for hours in [] if args.lies else map(float, args.hours.split(",")):
            write_long(folder / "long.wav", hours)
            rows = [
                ("measure", [ROOT / "measure_audio_grain.py", "long.wav"]),
                ("convert", [ROOT / "convert_to_spectrograms.py"]),
            ]
            rows += [("render", [*render, "long.wav", "-o", "out.wav", "--overwrite"])] if args.model else []
            for stage, command in rows:
                status, _, err, own, whole, seconds = peak_of(command, folder)
                print(
                    f"{hours:4g} hours {'':11s} {stage:8s} {own:7.0f} {whole:23.0f} {seconds:8.1f} {status:7d}",
                    flush=True,
                )
                if status not in (0, 1):
                    print(err[-2_000:])
            n_tiles = len(json.loads((folder / "training_pairs.json").read_text())["tiles"])
            print(f"{'':22s} {n_tiles} tiles", flush=True)
            (folder / "metadata.json").unlink()


if __name__ == "__main__":
    main()
