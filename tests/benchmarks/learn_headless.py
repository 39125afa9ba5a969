"""Learns a model as the window does, without a window: for benchmarks/faults.py.

    python tests/benchmarks/learn_headless.py MODELS FOLDER...

The model is named "a". It is begun, or continued where an earlier run stopped. Questions are answered with yes.
Exit status: 0 learned; 2 failed; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neural_grain.base.startup import begin_script

if __name__ == "__main__":
    begin_script()

from neural_grain.base.cli import exit_process, exit_status, run_stage
from neural_grain.base.errors import PipelineError
from neural_grain.session.learning import Learned, Learning, LearningFailed, LearningStopped, LittleToLearn
from neural_grain.session.models import begin_model, read_model

NAME, EPOCHS = "a", 2


def learn(models: Path, folders: list[Path]) -> int:
    """Begin or continue the model, and wait for the end."""
    record = read_model(NAME, models / NAME).record
    if record is not None and record.is_finished:
        return 0
    learning = Learning(begin_model(models, NAME, folders, EPOCHS), "cpu")
    try:
        while True:
            match learning.messages.get():
                case LittleToLearn():
                    learning.go_on()
                case Learned():
                    return 0
                case LearningStopped():
                    raise KeyboardInterrupt
                case LearningFailed(reason):
                    raise PipelineError(reason)
    finally:
        learning.close()


def main() -> int:
    """Learn as the command line says; returns the exit status."""
    models, *folders = map(Path.absolute, map(Path, sys.argv[1:]))
    return run_stage(lambda: learn(models, folders))


if __name__ == "__main__":
    exit_process(exit_status(main))
