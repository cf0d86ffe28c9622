"""Names that cross a process: record features, transformed features, splits, signatures and their outputs."""

import unicodedata
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

# Records. Where TF Model Garden's segmentation records have the same thing, the key is theirs.
IMAGE_ENCODED: Final = "image/encoded"
IMAGE_FILENAME: Final = "image/filename"
IMAGE_FORMAT: Final = "image/format"
IMAGE_HEIGHT: Final = "image/height"
IMAGE_WIDTH: Final = "image/width"
IMAGE_ID: Final = "image/id"
IMAGE_GROUP: Final = "image/group"
MASK_ENCODED: Final = "mask/encoded"
# Mean grey level, 0 to 255, and the share of each class: what drift between spans is measured by.
IMAGE_BRIGHTNESS: Final = "image/brightness"
MASK_SHARE_PREFIX: Final = "mask/share/"
# Columns of `flexunet ingest --metadata`.
METADATA_PREFIX: Final = "metadata/"
# TFX's name of what FileBasedExampleGen's driver leaves on records: number, bytes and times of their files.
RECORDS_FINGERPRINT: Final = "input_fingerprint"
# The folders that RecordGen read, `span-N/version-M`, with spaces between.
RECORDS_SPANS: Final = "spans"

# `train` trains, `eval` steers training, `test` is what the gate and every headline use.
SPLIT_TRAIN: Final = "train"
SPLIT_EVAL: Final = "eval"
SPLIT_TEST: Final = "test"
SPLITS: Final = (SPLIT_TRAIN, SPLIT_EVAL, SPLIT_TEST)

# Transform's outputs: `tf.io.serialize_tensor` of uint8 [tiles, height, width, 3] and uint8 [tiles, height, width].
TRANSFORMED_IMAGE: Final = "image"
TRANSFORMED_CLASS_IDS: Final = "class_ids"
# With `image.fit = "tile"` also the image's own height and width, int32 [2], by which its tiles are put together again.
TRANSFORMED_SIZE: Final = "size"
# With `dataset.sources` also which of them the image is from, "" for none.
TRANSFORMED_SOURCE: Final = "source"
# With `dataset.equal_groups` also its near-duplicate group.
TRANSFORMED_GROUP: Final = "group"
# Of Transform's custom_config: Trainer will choose an operating point, at the images' own size.
OWN_SIZE: Final = "own_size"
# What Transform then adds: a PNG of the class ids at the image's own size.
TRANSFORMED_TRUTH: Final = "truth_png"

BACKGROUND_ID: Final = 0
# Pixels that nobody labelled, and padding: left out of the loss, the counts and the statistics.
IGNORE_ID: Final = 255

SIGNATURE_SERVING: Final = "serving_default"
SIGNATURE_EVALUATE: Final = "evaluate"
# As serving_default, for REST: TF Serving writes as base64 only outputs whose names end in `_bytes`.
SIGNATURE_REST: Final = "serving_rest"
SIGNATURE_EXAMPLES: Final = "serving_examples"
SIGNATURE_PIXELS: Final = "pixels"
SIGNATURE_PROBABILITIES: Final = "probabilities"
INPUT_IMAGE_BYTES: Final = "image_bytes"
INPUT_EXAMPLES: Final = "examples"
INPUT_PIXELS: Final = "pixels"
# What is served, and the input of each: exported, warmed up and tried before a push.
SERVED: Final = {
    SIGNATURE_SERVING: INPUT_IMAGE_BYTES,
    SIGNATURE_REST: INPUT_IMAGE_BYTES,
    SIGNATURE_EXAMPLES: INPUT_EXAMPLES,
    SIGNATURE_PIXELS: INPUT_PIXELS,
    SIGNATURE_PROBABILITIES: INPUT_PIXELS,
}
OUTPUT_MASK_PNG: Final = "mask_png"
OUTPUT_MASK_PNG_REST: Final = "mask_png_bytes"
OUTPUT_CLASS_FRACTIONS: Final = "class_fractions"
OUTPUT_CLASS_NAMES: Final = "class_names"
OUTPUT_CONFIDENCE: Final = "confidence"
OUTPUT_VALID: Final = "valid"
OUTPUT_ERROR: Final = "error"
OUTPUT_CLASS_IDS: Final = "class_ids"
OUTPUT_PROBABILITIES: Final = "probabilities"
OUTPUT_COUNTS: Final = "counts"
OUTPUT_MODEL_SIZE_COUNTS: Final = "model_size_counts"
OUTPUT_PROBABILITY_SUMS: Final = "probability_sums"
OUTPUT_CALIBRATION: Final = "calibration"
OUTPUT_TRUTH_PNG: Final = "truth_png"
OUTPUT_PREDICTED_PNG: Final = "predicted_png"
# Only of a model with an operating point: the most probable defect class and its level, two channels.
OUTPUT_SCORED_PNG: Final = "scored_png"
# And, by class id: what its probabilities were above, and the pixels below which a region is background. The graph does
# not remove those: that is left to who gets the answer.
OUTPUT_THRESHOLDS: Final = "thresholds"
OUTPUT_SMALLEST_REGIONS: Final = "smallest_regions_not_applied"
OUTPUT_IMAGE_ID: Final = "image_id"
OUTPUT_GROUP: Final = "group"
# Raised when the outputs of `evaluate` change: a model with other ones cannot be a baseline.
EVALUATE_FORMAT: Final = 2

# The graph of an export: a folder that has it is a SavedModel.
EXPORTED_GRAPH: Final = "saved_model.pb"
# Beside an exported model, in the folder that TF Serving ignores.
ASSETS_EXTRA: Final = "assets.extra"
EXPORTED_CONFIG: Final = "config.json"
EXPORTED_TRAINING: Final = "training.json"
EXPORTED_OPERATING_POINT: Final = "operating_point.json"
EXPORTED_PROVENANCE: Final = "provenance.json"
# Of a pushed version: its card, and its signature.
EXPORTED_CARD: Final = "model_card.md"
EXPORTED_CARD_PAGE: Final = "model_card.html"
EXPORTED_SIGNATURE: Final = "model.sig"
# What a push adds to an export.
PUSHED_FILES: Final = (EXPORTED_PROVENANCE, EXPORTED_CARD, EXPORTED_CARD_PAGE, EXPORTED_SIGNATURE)
# Where TF Serving looks for it.
EXPORTED_WARMUP: Final = "tf_serving_warmup_requests"

# Why a person had a model pushed that the gate refused: a parameter of nodes, a property of the push in ML Metadata, a
# key of provenance.json.
ACCEPTED_REFUSED: Final = "accepted_refused"

# The folder of the export that a run took instead of training one: a property of its model in ML Metadata.
IMPORTED_FROM: Final = "imported_from"

# What a training leaves beside its model, for TensorBoard and the report.
TRAINING_HISTORY: Final = "history.csv"
TRAINING_PREVIEWS: Final = "previews"
# In the text of each of its PNG files: how many images stand side by side.
PREVIEWS_NUMBER: Final = "images"
TRAINING_AUGMENTED: Final = "augmented.png"
# The trials of a search: beside TFX's own results, and in the report.
TRIALS: Final = "tuning.json"

# The slice of images without a defect.
NO_DEFECT: Final = "none"


def spelled(class_name: str) -> str:
    """A class's name inside a key of a record or a score: percent-encoded but for ASCII letters, digits and `_.-~ `."""
    return quote(unicodedata.normalize("NFC", class_name), safe=" ")


def share_key(class_name: str) -> str:
    """The record's key of the share of a class in its mask."""
    return MASK_SHARE_PREFIX + spelled(class_name)


def defects_value(class_names: Sequence[str]) -> str:
    """Value of the slice `defects` of images that show these classes: joined by `+`, which a name has as `%2B`."""
    return "+".join(name.replace("+", "%2B") for name in class_names) or NO_DEFECT


def defects_of(value: str) -> list[str]:
    """The classes of such a value."""
    return [] if value == NO_DEFECT else [name.replace("%2B", "+") for name in value.split("+")]
