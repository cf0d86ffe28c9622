"""What lies where: the folder of the runs, DIR of `--root`, and the folder of a report in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexunet.core.features import TRIALS

# What the serving validator found: beside its blessing, and in the report.
SERVING_FILE: Final = "serving.json"
# Custom properties of the report in ML Metadata, where they outlive its folder: value, interval, test images.
HEADLINE_PROPERTIES: Final = ("foreground_dice", "foreground_dice_lower", "foreground_dice_upper", "examples")
# Another: why the model was refused, a JSON list of sentences.
PROBLEMS_PROPERTY: Final = "problems"


@dataclass(frozen=True)
class ReportFolder:
    """The folder of a report: written by the report node, read by the page, the runner and the commands."""

    path: Path

    @property
    def page(self) -> Path:
        """One run in one file."""
        return self.path / "index.html"

    @property
    def comparison(self) -> Path:
        """Two runs side by side."""
        return self.path / "against.html"

    @property
    def metrics(self) -> Path:
        """The contract with whoever reads scores; `details` holds what it has no place for."""
        return self.path / "metrics.json"

    @property
    def details(self) -> Path:
        """Intervals, confusion, reliability, images worth looking at."""
        return self.path / "details.json"

    @property
    def serving(self) -> Path:
        """What the serving validator found, and whether this very model was rolled back since."""
        return self.path / SERVING_FILE

    @property
    def data(self) -> Path:
        """Images, pixels and brightness of each split, and drift."""
        return self.path / "data.json"

    @property
    def model(self) -> Path:
        """Layers and what they cost."""
        return self.path / "model.json"

    @property
    def diagram(self) -> Path:
        """The levels of the model."""
        return self.path / "model.svg"

    @property
    def lineage(self) -> Path:
        """Data, code, configuration and baseline that made the model."""
        return self.path / "lineage.json"

    @property
    def training(self) -> Path:
        """A folder: history and pictures of the training."""
        return self.path / "training"

    @property
    def tuning(self) -> Path:
        """The trials of a search, where there was one."""
        return self.path / TRIALS

    @property
    def gallery(self) -> Path:
        """A folder: pictures of the images worth looking at, and `gallery_index`."""
        return self.path / "gallery"

    @property
    def gallery_index(self) -> Path:
        """Which pictures there are, and what each shows."""
        return self.gallery / "gallery.json"


@dataclass(frozen=True)
class Root:
    """The folder of the runs of one project: beside what is named here it has one folder for each node."""

    path: Path

    @property
    def metadata(self) -> Path:
        """ML Metadata's SQLite database, where runs are on one machine."""
        return self.path / "metadata.db"

    @property
    def serving(self) -> Path:
        """Where TF Serving looks for versions."""
        return self.path / "serving_model"

    @property
    def kubeflow(self) -> Path:
        """What was prepared for a cluster, a folder for each run, where runs are on one."""
        return self.path / "kubeflow"

    @property
    def live(self) -> Path:
        """What `flexunet live watch` saw, where it was told to write here; and what `live drift` found."""
        return self.path / "live"

    @property
    def report(self) -> ReportFolder:
        """Report of the last run."""
        return ReportFolder(self.path / "report")

    @property
    def checkpoints(self) -> Path:
        """What an interrupted training goes on from: each run has folders of its own, this one outlives them."""
        return self.path / "checkpoints"

    @property
    def tuning(self) -> Path:
        """What an interrupted search goes on from, and one with a larger budget."""
        return self.path / "tuning"

    @property
    def tuned(self) -> Path:
        """The configuration with the best values that `study tune` found."""
        return self.path / "tuned.toml"

    @property
    def logs(self) -> Path:
        """What libraries printed, a file for each command that ran the pipeline."""
        return self.path / "logs"
