"""Draws the house from the code: floors, their modules, and how many of a floor's modules use each floor below.

python docs/draw_house.py        (writes docs/house.svg)
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "base": "files, records, parallel work, the command line",
    "audio": "reading, writing, limiting",
    "dsp": "grain, layers, the slider's law, curves",
    "data": "what the stages exchange",
    "learn": "the model, its training and its audit",
    "app": "rendering files",
    "session": "what the window works with",
    "window": "what a person sees (tkinter)",
    "scripts": "the four commands",
}
WIDTH = 118  # characters of a line of modules


def modules() -> dict[str, list[Path]]:
    """Files of each floor."""
    found = {floor: sorted((ROOT / "neural_grain" / floor).glob("[a-z]*.py")) for floor in FLOORS if floor != "scripts"}
    return found | {"scripts": sorted(ROOT.glob("*.py"))}


def imported_floors(path: Path) -> set[str]:
    """Floors whose modules a file imports."""
    names = [
        node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neural_grain.")
    ]
    return {name.split(".")[1] for name in names} & FLOORS.keys()


def main() -> None:
    """Draw all floors, the lowest at the bottom."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "house"
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    floors = modules()
    texts = {floor: textwrap.wrap("  ".join(path.stem for path in files), WIDTH) for floor, files in floors.items()}
    height = sum(len(lines) + 2.6 for lines in texts.values())
    figure, axes = plt.subplots(figsize=(11, 0.21 * height))
    y = 0.0
    for floor, about in FLOORS.items():
        lines, files = texts[floor], floors[floor]
        n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        below = Counter(name for path in files for name in imported_floors(path) if name != floor)
        box_height = len(lines) + 1.9
        box = FancyBboxPatch((0, y), 100, box_height, boxstyle="round,pad=0.2", fc="#f3f1ed", ec="#c9c3b9")
        axes.add_patch(box)
        title = f"{floor}: {about}"
        axes.text(1, y + box_height - 0.7, title, weight="bold", va="center", size=9)
        uses = ", ".join(f"{name} {below[name]}" for name in FLOORS if below[name])
        note = f"{len(files)} modules, {n_lines:,} lines" + (f"; use {uses}" if uses else "")
        axes.text(99, y + box_height - 0.7, note, ha="right", va="center", size=7.5, color="#6d675f")
        for i, line in enumerate(lines):
            axes.text(1, y + box_height - 1.9 - i, line, va="center", size=7.5, family="monospace")
        y += box_height + 0.7
    axes.set(xlim=(-1, 101), ylim=(-0.5, y))
    axes.axis("off")
    output = ROOT / "docs" / "house.svg"
    figure.savefig(output, bbox_inches="tight", metadata={"Date": None})
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
