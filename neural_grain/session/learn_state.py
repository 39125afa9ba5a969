"""What the learn window shows, derived from the messages of the learning.

Nothing here knows of widgets: `LearnState` holds every text and every share that is on the screen, and `StageLines`
turns the messages of `Learning` into the rows of the three stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from neural_grain.base.errors import printable
from neural_grain.base.progress import describe_time_left
from neural_grain.data.metadata import FEW_FILES
from neural_grain.learn.settings import MIN_FILES
from neural_grain.session.learning import (
    STAGES,
    VERY_FEW_FILES,
    FolderCounted,
    Remark,
    StageProgress,
    StageStarted,
)
from neural_grain.session.messages import Message
from neural_grain.session.models import NamedModel

UNITS = {"training": "epochs"}  # of a loop; of all others they are files
MAX_PATH_LENGTH = 52  # characters of a path that are shown


class Phase(Enum):
    """What the learn window is about."""

    CHOOSING = 0  # folders and a name
    RUNNING = 1
    ASKING = 2  # whether to go on although there is little to learn
    STOPPING = 3
    STOPPED = 4
    FAILED = 5
    DONE = 6


#: What is said of a model when its learning is over.
ENDS = {Phase.DONE: "is learned", Phase.FAILED: "could not be learned", Phase.STOPPED: "was stopped"}


@dataclass(frozen=True)
class StageLine:
    """The row of one stage; ``share`` is what is done of it, within 0 to 1."""

    title: str
    text: str = ""
    share: float = 0.0


@dataclass(frozen=True)
class FolderLine:
    """The row of one folder."""

    folder: Path
    text: str
    is_fault: bool = False


@dataclass(frozen=True)
class LearnState:
    """Everything that the learn window shows.

    Attributes
    ----------
    phase : Phase
    name : str of the model; while folders are chosen, a suggestion
    folders : tuple of FolderLine
    hint : str about the number of files
    can_start : bool
    unfinished : tuple of NamedModel that can be continued
    stages : tuple of StageLine
    line : str, what happened last
    fault : str, why something is not possible or has failed
    reasons : tuple of str, why a model would learn little
    n_remarks : int, warnings so far
    verdict : tuple of str, clauses
    picture : Path or None, of the audit
    """

    phase: Phase = Phase.CHOOSING
    name: str = ""
    folders: tuple[FolderLine, ...] = ()
    hint: str = ""
    can_start: bool = False
    unfinished: tuple[NamedModel, ...] = ()
    stages: tuple[StageLine, ...] = ()
    line: str = ""
    fault: str = ""
    reasons: tuple[str, ...] = ()
    n_remarks: int = 0
    verdict: tuple[str, ...] = ()
    picture: Path | None = None


@dataclass
class StageLines:
    """The rows of the stages, and what they said."""

    rows: list[StageLine] = field(default_factory=lambda: [StageLine(stage.title) for stage in STAGES])
    current: int = 0
    done: str = ""  # what is done of the current stage
    line: str = ""
    warnings: list[str] = field(default_factory=list)

    def handle(self, message: Message) -> None:
        """Follow a message of the learning; all others change nothing."""
        match message:
            case StageStarted(index):
                self.finish(index)
                self.rows[index] = StageLine(STAGES[index].title, "starting ...")
            case StageProgress(index, loop, share):
                self.done = f"{loop.doing}: {loop.done} of {loop.total} {UNITS.get(loop.doing, 'files')}"
                left = f", {describe_time_left(loop.left_s)}" if loop.left_s and loop.done < loop.total else ""
                self.rows[index] = StageLine(STAGES[index].title, self.done + left, share)
            case Remark(text, is_warning):
                self.line = text
                if is_warning:
                    self.warnings.append(text)

    def finish(self, index: int) -> None:
        """All stages before this one are done."""
        self.current, self.done = index, ""
        for i in range(index):
            self.rows[i] = StageLine(STAGES[i].title, "done", 1.0)

    def end(self) -> None:
        """The current stage goes no further."""
        if self.current < len(self.rows):
            row = self.rows[self.current]
            self.rows[self.current] = StageLine(row.title, self.done or "not begun", row.share)

    def describe(self) -> str:
        """The stage that runs, in one line."""
        row = self.rows[min(self.current, len(self.rows) - 1)]
        return f"{row.title.lower()}, {row.text or 'starting ...'}"


class FolderCounts:
    """The chosen folders, and how many audio files they hold.

    Attributes
    ----------
    folders : list of Path, in the order in which they were chosen
    """

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self._counts: dict[Path, FolderCounted] = {}

    def add(self, folder: Path) -> bool:
        """Add a folder; returns False if it is there already."""
        if folder in self.folders:
            return False
        self.folders.append(folder)
        return True

    def remove(self, folder: Path) -> None:
        """Remove a folder."""
        self.folders.remove(folder)
        self._counts.pop(folder, None)

    def handle(self, counted: FolderCounted) -> None:
        """Remember a count."""
        self._counts[counted.folder] = counted

    @property
    def is_counting(self) -> bool:
        """Whether some folders are not counted yet."""
        return any(folder not in self._counts for folder in self.folders)

    @property
    def n_files(self) -> int:
        """Audio files in all folders that were counted; those of a folder inside another one count once."""
        outer = (a for a in self.folders if not any(a != b and a.is_relative_to(b) for b in self.folders))
        return sum(self._counts[folder].n_files for folder in outer if folder in self._counts)

    def lines(self) -> tuple[FolderLine, ...]:
        """The rows of the folders."""
        return tuple(map(self._line, self.folders))

    def _line(self, folder: Path) -> FolderLine:
        counted = self._counts.get(folder)
        if counted is None:
            return FolderLine(folder, "counting ...")
        if counted.fault:
            return FolderLine(folder, "can't be read", is_fault=True)
        return FolderLine(folder, describe_count(counted.n_files), is_fault=not counted.n_files)

    def fault(self) -> str:
        """Why learning can't begin with these folders; empty if it can or there are none."""
        if not self.folders or self.is_counting:
            return ""
        for folder in self.folders:
            if self._counts[folder].fault:
                return self._counts[folder].fault
        if self.n_files == 0:
            return "there are no audio files in these folders; choose others"
        if self.n_files < MIN_FILES:
            return f"only {describe_count(self.n_files)}: a model needs at least {MIN_FILES}, better {FEW_FILES}"
        return ""

    def hint(self) -> str:
        """What is to be said about the number of files; empty if there is a fault or nothing to say."""
        if not self.folders or self.fault():
            return ""
        if self.is_counting:
            return "counting the files ..."
        if self.n_files < VERY_FEW_FILES:
            return f"Only {self.n_files} files: a model learns better from {FEW_FILES} or more."
        if self.n_files < FEW_FILES:
            return f"{self.n_files} files are enough to begin with; {FEW_FILES} or more teach a better model."
        return f"{self.n_files} files"


def describe_count(n: int) -> str:
    """A number of audio files in words."""
    return "no audio files" if n == 0 else f"{n} file{'s' * (n != 1)}"


def short_path(path: Path) -> str:
    """A path as it is shown: from the home folder, and with its middle left out if it is long."""
    try:
        text = printable(Path("~", path.relative_to(Path.home())))
    except (ValueError, RuntimeError):  # outside it, or the user has none
        text = printable(path)
    return text if len(text) <= MAX_PATH_LENGTH else f"{text[:18]} ... {text[-30:]}"
