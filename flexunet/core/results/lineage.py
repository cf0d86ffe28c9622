"""Where a model comes from: `lineage.json` of a report, `provenance.json` of a pushed version."""

from typing import TypedDict

from flexunet.core.files import JsonObject
from flexunet.core.results.metrics import Check, ClassScores
from flexunet.core.results.training import KerasOrigin


class ModelOrigin(TypedDict):
    """The model of a run."""

    uri: str
    """where it lies"""
    sha256: str
    """over its files' names and bytes"""
    code: str | None
    """fingerprint of the code of its training; `null` if that was not noted"""
    weights: KerasOrigin | None
    """the file that its weights were imported from; `null` where it was trained"""


class DataOrigin(TypedDict, total=False):
    """The records that a model was trained and measured on."""

    directory: str | None
    """the folder of the spans"""
    span: int | None
    """the newest one read"""
    spans: list[str]
    """all that were read, `span-N/version-M`; empty for records made elsewhere"""
    fingerprint: str | None
    """number, bytes and times of the record files"""
    uri: str | None
    """where the run's copy lies"""
    records: str | None
    """the same, as `flexunet lineage` calls it"""


class ReportLineage(TypedDict):
    """`lineage.json` of a report."""

    run: str | None
    """id of the run that measured; `null` outside a pipeline"""
    project: str
    """name of the folder of the runs"""
    measured: str
    """when, in UTC"""
    model: ModelOrigin
    data: DataOrigin
    config: JsonObject
    """every section, as in the TOML file: what the model was trained with, and else what was asked of the run"""
    libraries: dict[str, str]
    """versions by name"""


class PushedScores(TypedDict, total=False):
    """What a pushed version scored; as in `metrics.json`."""

    examples: int
    foreground_dice: float | None
    mean_iou: float | None
    classes: dict[str, ClassScores]


class ImportedModel(TypedDict):
    """The model that a run took instead of training one."""

    directory: str
    """where the export lay"""
    weights: KerasOrigin | None
    """the file that it was made from; `null` where it was trained"""


class Provenance(TypedDict, total=False):
    """`provenance.json` of a version: empty for one that somebody else made."""

    version: int
    """its number"""
    sha256: str
    """of the model that it was made from"""
    run: str | None
    """the run that pushed it"""
    pushed: str
    """when, in UTC"""
    accepted_refused: str
    """why a person had it pushed although the gate refused it"""
    model_uri: str
    """where the run's copy lies"""
    imported: ImportedModel
    """of a run with `--from-model`"""
    data: DataOrigin
    scores: PushedScores
    gate: list[Check]
    baseline: str | None
    """where the model lay that it was compared with"""
    restored: int
    """of a version that a rollback made: the one that it holds again"""
    withdrawn: int
    """and the one that it took the place of"""
    restored_at: str
    """and when, in UTC"""


class BaselineOrigin(TypedDict):
    """The model that a version was compared with."""

    model: str
    """where it lay"""
    version: int | None
    """the number under which it was pushed"""
