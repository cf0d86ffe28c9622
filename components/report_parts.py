"""What the report shows besides scores: images predicted again, data, layers, and where the model comes from."""

# Before whatever imports TFDV or TFMA: tfx stands in for what their libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import datetime
import importlib.metadata
import io
import json
import platform
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.types import Artifact, artifact_utils

from components.drift import DRIFT_FILE
from components.mask_validation_artifact import split_facts
from flexunet.core import features
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.report import ReportSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.files import JsonObject, write_json
from flexunet.core.libraries import LIBRARIES
from flexunet.core.pictures import open_image, png
from flexunet.core.regions import without_small
from flexunet.core.results.data import Brightness, Data
from flexunet.core.results.lineage import ReportLineage
from flexunet.core.results.metrics import ListedImages
from flexunet.core.results.model import Layer, Model
from flexunet.core.root import ReportFolder
from flexunet.reporting.gallery import Predicted, write_gallery
from flexunet.serving.exported import exported_part, exported_training
from flexunet.serving.versions import content_hash
from trainer_module.cost import LayerCost, activation_bytes, draw_diagram, layer_costs
from trainer_module.model import build_model
from transform_module.pipelines import read_records

_PREDICTED_AT_ONCE: Final = 4


def export_config(model: Path) -> TrainerConfig:
    """The configuration that an exported model was trained with."""
    return exported_part(model, TrainerConfig)


def draw_gallery(
    folder: ReportFolder,
    listed: ListedImages,
    model: Path,
    examples: Artifact,
    settings: GateSettings,
) -> None:
    """Predicts the listed images of `test` again, through the exported graph, and writes them to `folder`.

    Args:
      folder: of the report, gets the gallery.
      listed: worst, median, best and all that are shown, to `{id, dice}` each.
      model: a SavedModel of this project.
      examples: records with the split `test`.
      settings: classes, and what counts as a defect.
    """
    which: dict[str, list[str]] = {}
    dice: dict[str, float] = {}
    for name in ("worst", "median", "best"):
        for image in listed[name]:
            which.setdefault(image["id"], []).append(name)
            dice[image["id"]] = image["dice"]
    for image in listed["shown"]:
        which.setdefault(image["id"], [])
        dice[image["id"]] = image["dice"]
    # The worst first: what an inspector wants to see.
    which = dict(sorted(which.items(), key=lambda item: (dice[item[0]], item[0])))
    config = export_config(model)
    records = _records_of(which, examples, config.records.id)
    images = [
        Predicted(which[name], name, dice[name], _upright(records[name], config), *masks)
        for name, masks in zip(which, _predict(model, [records[name] for name in which]), strict=True)
    ]
    write_gallery(folder, images, settings)


def data_facts(examples: Artifact, statistics: Artifact, validation: Artifact, drift: Artifact) -> Data:
    """Images, pixels and brightness of each split, and what moved since the span before."""
    return {
        "span": examples.span,
        "splits": split_facts(validation),
        "brightness": dict(_brightness(statistics)),
        "drift": json.loads((Path(drift.uri) / DRIFT_FILE).read_text(encoding="utf-8")),
    }


def write_model(folder: ReportFolder, model: Path) -> None:
    """Layers with their costs, and the diagram; of an ensemble those of one network, and the sums of all."""
    config, members = export_config(model), exported_training(model).get("members", 1)
    network = build_model(config)
    costs = layer_costs(network)
    draw_diagram(config, folder.diagram)
    facts: Model = {
        "parameters": members * network.count_params(),
        "multiply_accumulates": members * sum(cost.multiply_accumulates for cost in costs),
        "activation_bytes": activation_bytes(costs, config.train.batch_size),
        "layers": [_layer(cost) for cost in costs],
    }
    if members > 1:
        facts["members"] = members
    write_json(folder.model, facts)


def _layer(cost: LayerCost) -> Layer:
    return {
        "name": cost.name,
        "kind": cost.kind,
        "output_shape": list(cost.output_shape),
        "parameters": cost.parameters,
        "multiply_accumulates": cost.multiply_accumulates,
    }


def lineage_facts(
    model: Artifact, exported: Path, examples: Artifact, settings: ReportSettings, run: str | None
) -> ReportLineage:
    """Data, code and configuration that made a model, and with which libraries it was measured."""
    training = exported_training(exported)
    return {
        "run": run,
        # TFX's layout: ROOT/NODE/OUTPUT/EXECUTION.
        "project": Path(model.uri).parents[2].name,
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "uri": model.uri,
            "sha256": content_hash(exported),
            "code": training.get("code"),
            "weights": training.get("weights"),
        },
        "data": {
            "span": examples.span,
            "spans": examples.get_string_custom_property(features.RECORDS_SPANS).split(),
            "uri": examples.uri,
            "fingerprint": examples.get_string_custom_property(features.RECORDS_FINGERPRINT),
        },
        "config": _config(export_config(exported), settings),
        "libraries": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("tfx", *LIBRARIES)},
        },
    }


def _config(trained: TrainerConfig, asked: ReportSettings) -> JsonObject:
    """What the model was trained with and, in the sections that change no training, what was asked of this run."""
    config, sections = trained.model_dump(mode="json"), asked.model_dump(mode="json", exclude={"classes"})
    # What is baked into the graph is the export's own, whatever is asked of it now.
    own = {name: {**sections[name], **config[name]} for name in ("records", "serving")}
    return {**config, **sections, **own}


def _records_of(wanted: Collection[str], examples: Artifact, key: str) -> dict[str, bytes]:
    """Serialized records by image id; reading stops when all were found."""
    patterns = [f"{folder}/*" for folder in artifact_utils.get_split_uris([examples], features.SPLIT_TEST)]
    paths = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
    found: dict[str, bytes] = {}
    for record in read_records(paths).as_numpy_iterator():
        if len(found) == len(wanted):
            break
        # As the Evaluator's metric has it.
        image_id = _bytes_of(record, key).decode("utf-8", "replace")
        if image_id in wanted:
            found[image_id] = record
    return found


def _upright(record: bytes, config: TrainerConfig) -> bytes:
    """The image of a record as the model saw it, as PNG."""
    return png(open_image(_bytes_of(record, config.records.image), config.image).image)


def _bytes_of(record: bytes, key: str) -> bytes:
    return tf.train.Example.FromString(record).features.feature[key].bytes_list.value[0]


def _predict(model: Path, records: Sequence[bytes]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Class ids of truth and prediction, uint8 `[h, w]` both, as the Evaluator had them."""
    loaded: Any = tf.saved_model.load(str(model))
    for start in range(0, len(records), _PREDICTED_AT_ONCE):
        batch = tf.constant(list(records[start : start + _PREDICTED_AT_ONCE]))
        outputs = loaded.signatures[features.SIGNATURE_EVALUATE](**{features.INPUT_EXAMPLES: batch})
        columns = [outputs[key].numpy() for key in (features.OUTPUT_TRUTH_PNG, features.OUTPUT_PREDICTED_PNG)]
        smallest = outputs.get(features.OUTPUT_SMALLEST_REGIONS)
        for truth, predicted in zip(*columns, strict=True):
            class_ids = _class_ids(predicted)
            yield _class_ids(truth), class_ids if smallest is None else without_small(class_ids, smallest[0].numpy())


def _class_ids(encoded: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def _brightness(statistics: Artifact) -> Iterator[tuple[str, Brightness]]:
    """Histograms by split; none for records that were made elsewhere and do not tell it."""
    for split in artifact_utils.decode_split_names(statistics.split_names):
        path = Path(artifact_utils.get_split_uri([statistics], split)) / "FeatureStats.pb"
        [dataset] = statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes()).datasets
        for feature in dataset.features:
            if list(feature.path.step) == [features.IMAGE_BRIGHTNESS]:
                standard = statistics_pb2.Histogram.STANDARD
                buckets = next(h for h in feature.num_stats.histograms if h.type == standard).buckets
                yield (
                    split,
                    {
                        "mean": feature.num_stats.mean,
                        "edges": [buckets[0].low_value, *(bucket.high_value for bucket in buckets)],
                        "counts": [round(bucket.sample_count) for bucket in buckets],
                    },
                )
