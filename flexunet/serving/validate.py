"""Checks an export in a process without TensorFlow's Python, through the session loader that TF Serving uses.

    python -m flexunet.serving.validate MODEL_DIR INPUTS.npz RESULT.json

INPUTS.npz holds `images` (encoded), `pictures` (their pixels as the graph decodes them, RGB PNG), `masks` (RGB PNG) and
`examples` (records), strings `[K]` each. RESULT.json says what is wrong in `problems`, none if the model can be served,
and what loading and serving cost.
"""

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.errors import UserError
from flexunet.core.palette import class_ids_from_rgb
from flexunet.core.results.serving import BatchSpeed, Findings, Latency
from flexunet.serving.c_api import SavedModel, SavedModelError, load_arrays
from flexunet.serving.exported import ServedConfig, exported_config, exported_thresholds
from flexunet.serving.memory import PeakMemory
from flexunet.serving.rounding import ROUNDING, at_the_boundary, moved_pixels
from flexunet.serving.wire import as_strings, read_warmup

_BROKEN: Final = b"\x89PNG\r\n\x1a\n and nothing else"
_TIMED_CALLS: Final = 20
# A batch in which a row could be changed by one before it and by one behind it.
_ROWS: Final = 3
_OF_A_ROW: Final = (features.OUTPUT_MASK_PNG, features.OUTPUT_CONFIDENCE)

_Row = TypeVar("_Row")


def main() -> None:
    """Writes the result; whatever goes wrong with the model is a problem in it, not an exit code."""
    model_directory, inputs, result = map(Path, sys.argv[1:4])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    findings = check_model(model_directory, load_arrays(inputs))
    assert "tensorflow" not in sys.modules, "the check must not use TensorFlow's Python"
    result.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")


def check_model(directory: Path, inputs: Mapping[str, np.ndarray]) -> Findings:
    """The problems and what was measured; the measurements are those taken before something failed."""
    findings: Findings = {"problems": []}
    try:
        config = exported_config(directory)
        started = time.monotonic()
        with SavedModel(directory) as model:
            findings["load_seconds"] = time.monotonic() - started
            peak = PeakMemory()
            for problem in _check_warmup(model, directory):
                findings["problems"].append(problem)
            answers = _ask(model, config, list(inputs["images"]))
            if not findings["problems"]:
                findings["latency_seconds"], findings["batch"] = _latency(model, directory)
            # Before what no server is asked for: `evaluate`, and all probabilities of an image where a pixel differs.
            idle, above = peak.idle_megabytes, peak.megabytes_above_idle()
            if idle is not None and above is not None:
                findings["idle_megabytes"], findings["megabytes_above_idle"] = idle, above
            for problem in _compare(Decided(model, exported_thresholds(directory)), answers, config, inputs):
                findings["problems"].append(problem)
    except (SavedModelError, UserError, ValueError, OSError) as error:
        findings["problems"].append(" ".join(str(error).split()))
    return findings


class Decided(NamedTuple):
    """A model, and the thresholds of its operating point if it has one: where its classes are decided."""

    model: SavedModel
    thresholds: list[float] | None

    def by_rounding(self, picture: bytes) -> NDArray[np.bool_]:
        """Where rounding decides, bool `[h, w]`; asked for only if a pixel differs."""
        return at_the_boundary(_probabilities(self.model, [_rgb(picture)])[0], self.thresholds)


class Answers(NamedTuple):
    """What is served of the test images.

    Attributes:
      alone: the mask of the first, asked for alone.
      beside: for each place of it in a batch, the outputs beside broken images, and beside whole ones.
      batch: the outputs of all test images.
    """

    alone: bytes
    beside: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]
    batch: dict[str, np.ndarray]


def _ask(model: SavedModel, config: ServedConfig, images: Sequence[bytes]) -> Answers:
    """Every request that a server is asked besides the warm-up."""
    alone, mate = _serve(model, images[:1])[features.OUTPUT_MASK_PNG][0], _png(_noise(config))
    beside = [
        (_serve(model, _among(images[0], _BROKEN, place)), _serve(model, _among(images[0], mate, place)))
        for place in range(_ROWS)
    ]
    return Answers(alone, beside, _serve(model, images))


def _compare(
    decided: Decided, answers: Answers, config: ServedConfig, inputs: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Whatever stands beside an image, its answer stays the same: bit for bit in one place of batches of one size,
    where nothing is added in another order, and but for rounding in a batch of its own. And it is what was measured."""
    picture, noise = inputs["pictures"][0], _noise(config)
    yield from _check_images(decided, answers, picture)
    yield from _check_pixels(decided.model, _resized(picture, noise.shape), noise)
    yield from _check_counts(decided, answers.batch, config, inputs)


def _check_warmup(model: SavedModel, directory: Path) -> Iterator[str]:
    """Replays every request; a record that fails would make TF Serving refuse the version."""
    seen = set()
    for signature, inputs in read_warmup(directory):
        seen.add(signature)
        rows = len(next(iter(inputs.values())))
        outputs = model.run(signature, inputs)
        yield from _check_outputs(f"warm-up of {signature}, {rows} rows", outputs, rows)
    for missing in sorted({*features.SERVED} - seen):
        yield f"no warm-up record for {missing}, expected one for each served signature"


def _check_outputs(what: str, outputs: Mapping[str, np.ndarray], rows: int) -> Iterator[str]:
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            yield f"{what}: {name} has shape {list(array.shape)}, expected {rows} rows"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"{what}: {name} is not finite"
    if not outputs.get(features.OUTPUT_VALID, np.array([True])).all():
        yield f"{what}: {outputs[features.OUTPUT_ERROR][0].decode(errors='replace')}"


def _check_images(decided: Decided, answers: Answers, picture: bytes) -> Iterator[str]:
    for place, (broken, whole) in enumerate(answers.beside):
        where = f"row {place} of {_ROWS}"
        valid = broken[features.OUTPUT_VALID].tolist()
        if valid != [row == place for row in range(_ROWS)] or not whole[features.OUTPUT_VALID].all():
            yield f"one good image, {where}, and broken ones: valid is {valid}"
        elif any(broken[name][place] != whole[name][place] for name in _OF_A_ROW):
            yield f"a broken image changes the answer to its batch-mates: {where}"
        elif changed := _changed_pixels(decided, picture, answers.alone, whole[features.OUTPUT_MASK_PNG][place]):
            yield f"the size of the batch changes the answer: {changed} pixels of {where}"


def _check_pixels(model: SavedModel, pixels: NDArray[np.uint8], mate: NDArray[np.uint8]) -> Iterator[str]:
    """`probabilities` hides nothing: a softmax near 1 has the same mask and confidence after a change of its logits."""
    alone = _probabilities(model, [pixels])[0]
    for place in range(_ROWS):
        dark, bright = (_probabilities(model, _among(pixels, m, place))[place] for m in (np.zeros_like(mate), mate))
        difference = float(np.abs(bright - alone).max())
        if not np.array_equal(dark, bright, equal_nan=True):
            yield f"probabilities: other batch-mates change row {place} of {_ROWS}"
        elif difference > ROUNDING:
            yield f"probabilities: in row {place} of {_ROWS} {difference:g} off the image alone, at most {ROUNDING:g}"


def _among(row: _Row, mate: _Row, place: int) -> list[_Row]:
    return [row if index == place else mate for index in range(_ROWS)]


def _noise(config: ServedConfig) -> NDArray[np.uint8]:
    """An image of the model's size, uint8 `[height, width, 3]`, always the same."""
    return np.random.default_rng(0).integers(0, 256, (config.image.height, config.image.width, 3), np.uint8)


def _serve(model: SavedModel, images: Sequence[bytes]) -> dict[str, np.ndarray]:
    return model.run(features.SIGNATURE_SERVING, {features.INPUT_IMAGE_BYTES: as_strings(images)})


def _probabilities(model: SavedModel, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    inputs = {features.INPUT_PIXELS: np.stack(pixels)}
    return model.run(features.SIGNATURE_PROBABILITIES, inputs)[features.OUTPUT_PROBABILITIES]


def _changed_pixels(decided: Decided, picture: bytes, mask_png: bytes, other_png: bytes) -> int:
    """Pixels of another class, those left out where rounding decides."""
    if mask_png == other_png:
        return 0
    rounded = decided.by_rounding(picture)
    return int(np.count_nonzero((_ids(mask_png) != _ids(other_png)) & ~rounded))


def _check_counts(
    decided: Decided, served: Mapping[str, np.ndarray], config: ServedConfig, inputs: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What is served must be what was measured: counts of truth and prediction, equal image by image but for as many
    pixels as rounding may decide."""
    measured = decided.model.run(features.SIGNATURE_EVALUATE, {features.INPUT_EXAMPLES: inputs["examples"]})
    yield from _check_outputs("test images", served, len(inputs["images"]))
    for index, mask_png in enumerate(served[features.OUTPUT_MASK_PNG]):
        if not mask_png:
            continue
        counts, other = _counts(mask_png, inputs["masks"][index], config), measured[features.OUTPUT_COUNTS][index]
        if not moved_pixels(counts, other) <= _undecided_pixels(decided, inputs["pictures"][index], counts, other):
            yield (
                f"test image {index}: serving_default counts {counts.tolist()}, "
                f"evaluate {other.tolist()}, expected the same"
            )


def _undecided_pixels(decided: Decided, picture: bytes, counts: np.ndarray, other: np.ndarray) -> int:
    if np.array_equal(counts, other):
        return 0
    return int(np.count_nonzero(decided.by_rounding(picture)))


def _counts(mask_png: bytes, truth_png: bytes, config: ServedConfig) -> NDArray[np.int64]:
    """Pixel counts `[C, C]`, rows truth; pixels that nobody labelled are left out."""
    predicted = _ids(mask_png)
    truth, _ = class_ids_from_rgb(_rgb(truth_png), config.classes, config.records)
    labelled = truth != features.IGNORE_ID
    counts = np.zeros((len(config.classes), len(config.classes)), np.int64)
    np.add.at(counts, (truth[labelled], predicted[labelled]), 1)
    return counts


def _ids(mask_png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(mask_png)))


def _rgb(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _resized(picture: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((shape[1], shape[0])))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _latency(model: SavedModel, directory: Path) -> tuple[Latency, BatchSpeed]:
    """Latency of the warm-up's smallest and largest batch of encoded images."""
    batches = [inputs for signature, inputs in read_warmup(directory) if signature == features.SIGNATURE_SERVING]
    one = [_seconds(model, batches[0]) for _ in range(_TIMED_CALLS)]
    many = [_seconds(model, batches[-1]) for _ in range(3)]
    rows = len(batches[-1][features.INPUT_IMAGE_BYTES])
    latency: Latency = {"p50": float(np.quantile(one, 0.5)), "p95": float(np.quantile(one, 0.95))}
    return latency, {"rows": rows, "images_per_second": rows / min(many)}


def _seconds(model: SavedModel, inputs: dict[str, np.ndarray]) -> float:
    started = time.perf_counter()
    model.run(features.SIGNATURE_SERVING, inputs)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
