"""Models by name: where they are kept, what is known of each, and which names a new one can have.

A model is a folder in the user's data folder, in which the three stages work as in any other folder:

    models/NAME/learning.json                  what it learns from, and whether that is finished
    models/NAME/metadata.json ...              what the stages write
    models/NAME/grain_processor_v2_output/     the model itself and its audit

Beside these there may be the model of the folder that the program was started in. No model is ever deleted here.
"""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import remove_leftovers
from neural_grain.base.records import parse_record, read_json, relative_posix, write_json
from neural_grain.learn.settings import (
    AUDIT_NAME,
    AUDIT_VERSION,
    DEFAULT_MODEL_DIR,
    FINAL_NAME,
    LATEST_NAME,
    TrainOptions,
)
from neural_grain.session.preferences import data_folder

RECORD_NAME = "learning.json"
RECORD_VERSION = 1
LOCAL_NAME = "the model of this folder"
AUDIT_PICTURE = "audit.png"
MAX_NAME_LENGTH = 60  # characters: 240 bytes at most, and file systems take 255
#: Names of devices, which no file of Windows can have. A model may be moved there, so no system takes them.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[<>:"/\\|?*]')


@dataclass(frozen=True)
class LearningRecord:
    """What a model learns from.

    Attributes
    ----------
    folders : of recordings, absolute
    epochs : int > 0
    n_files : int or None, recordings that were measured; None until they were
    tiles : str, digest of the tiles that training began with; empty before
    is_finished : bool, whether all stages are done
    """

    folders: tuple[Path, ...]
    epochs: Annotated[int, Meta(ge=1)] = TrainOptions.epochs
    n_files: Annotated[int, Meta(ge=0)] | None = None
    tiles: str = ""
    is_finished: bool = False


@dataclass(frozen=True)
class NamedModel:
    """A model, or one that is still to be learned.

    Attributes
    ----------
    name : str
    folder : Path, in which the stages work
    record : LearningRecord or None for a model that was not learned in the window
    verdict : str of its audit, empty if there is none
    """

    name: str
    folder: Path
    record: LearningRecord | None = None
    verdict: str = ""

    @property
    def output_folder(self) -> Path:
        """What stage 3 writes into."""
        return self.folder / DEFAULT_MODEL_DIR

    @property
    def path(self) -> Path:
        """The final model."""
        return self.output_folder / FINAL_NAME

    @property
    def audit_picture(self) -> Path:
        """The picture of its audit."""
        return self.output_folder / AUDIT_PICTURE

    @property
    def is_trained(self) -> bool:
        """Whether it can be used."""
        return os.path.isfile(self.path)  # unlike `Path.is_file`, False for one that can't be asked about

    @property
    def is_unfinished(self) -> bool:
        """Whether learning was begun here and can be continued."""
        return self.record is not None and not self.record.is_finished

    @property
    def has_checkpoint(self) -> bool:
        """Whether training has a checkpoint that it can be resumed from."""
        return os.path.isfile(self.output_folder / LATEST_NAME)


def models_folder() -> Path | None:
    """Folder of all models in the data folder of the platform, such as ~/.local/share/neural-grain-processor/models.

    None for a user without a home, who can have no models by name.
    """
    folder = data_folder()
    return None if folder is None else folder / "models"


def list_models(folder: Path | None, here: Path | None = None) -> list[NamedModel]:
    """All models by name, and first the model of the folder ``here`` if it has one.

    Folders that hold neither a model nor a record are left out, and so is everything that can't be read.
    """
    models = []
    if folder is not None:
        with suppress(OSError):
            models = [read_model(each.name, each) for each in folder.iterdir() if os.path.isdir(each)]
    models = [model for model in models if model.is_trained or model.is_unfinished]
    models.sort(key=lambda model: model.name.casefold())
    if here is not None:
        local = read_model(LOCAL_NAME, here)
        models[:0] = [local] if local.is_trained else []
    return models


def read_model(name: str, folder: Path) -> NamedModel:
    """What is known of the model in a folder; what is damaged counts as missing."""
    model = NamedModel(name, folder)
    with suppress(PipelineError):
        model = replace(model, record=_read_record(folder / RECORD_NAME))
    with suppress(PipelineError):
        model = replace(model, verdict=_read_verdict(model.output_folder / AUDIT_NAME))
    return model


def _read_record(path: Path) -> LearningRecord:
    content = read_json(path, RECORD_VERSION, None)
    return parse_record(LearningRecord, content.get("learning"), f"{path}: learning", path.parent)


def _read_verdict(path: Path) -> str:
    summary = read_json(path, AUDIT_VERSION, None).get("summary")
    verdict = summary.get("verdict") if isinstance(summary, dict) else None
    return printable(verdict) if isinstance(verdict, str) else ""


def write_record(model: NamedModel) -> None:
    """Write learning.json."""
    fields = {**vars(model.record), "folders": [relative_posix(each, model.folder) for each in model.record.folders]}
    write_json(model.folder / RECORD_NAME, {"version": RECORD_VERSION, "learning": fields})


def check_name(name: str) -> str:
    """The name of a model without the spaces around it.

    Raises
    ------
    PipelineError
        If no folder can have this name on every system.
    """
    name = unicodedata.normalize("NFC", name.strip())
    if not name:
        raise PipelineError("give the model a name")
    if len(name) > MAX_NAME_LENGTH:
        raise PipelineError(f"the name has {len(name)} characters; at most {MAX_NAME_LENGTH} are possible")
    if found := FORBIDDEN.search(name):
        raise PipelineError(f"the name can't have {found[0]} in it, because the model is a folder of this name")
    if not name.isprintable():
        raise PipelineError(f"the name {printable(name)!r} can't be used: a character in it can't be shown")
    if name.startswith(".") or name.endswith("."):
        raise PipelineError(f"the name {name} can't be used: it begins or ends with a full stop")
    if DEVICES.fullmatch(name) or name.casefold() == LOCAL_NAME:
        raise PipelineError(f"the name {name} is reserved; choose another")
    return name


def begin_model(folder: Path | None, name: str, folders: list[Path], epochs: int) -> NamedModel:
    """Make the folder of a new model, or take that of an unfinished one of the same name, and write its record.

    Raises
    ------
    PipelineError
        If the name can't be used or belongs to a finished model, or the folder can't be made.
    """
    name = check_name(name)
    if folder is None:
        raise PipelineError("models are kept in the home folder, and this user has none")
    with suppress(OSError):  # a name that differs in case only is the same folder on some systems
        name = next((each.name for each in folder.iterdir() if each.name.casefold() == name.casefold()), name)
    own = folder / name
    model = read_model(name, own)
    try:
        own.mkdir(parents=True, exist_ok=True)
        remove_leftovers(own)  # a run that was killed before it had written the record left nothing else
        is_new = not any(own.iterdir())
    except OSError as err:
        raise PipelineError(f"{own}: can't make the folder of the model ({err.strerror})") from err
    if not (is_new or model.is_unfinished):
        raise PipelineError(f"there is already a model named {name}; choose another name")
    earlier = model.record or LearningRecord(())
    model = replace(model, record=replace(earlier, folders=tuple(folders), epochs=epochs))
    write_record(model)
    return model
