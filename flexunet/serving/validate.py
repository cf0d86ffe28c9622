"""Checks an export in a process without TensorFlow's Python, through the session loader that TF Serving uses.

    python -m flexunet.serving.validate MODEL_DIR INPUTS.npz RESULT.json

INPUTS.npz holds `images` (encoded), `masks` (RGB PNG) and `examples` (records), strings `[K]` each. RESULT.json says
what is wrong in `problems`, none if the model can be served, and what loading and serving cost.
"""

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.errors import UserError
from flexunet.core.palette import class_ids_from_rgb
from flexunet.serving.c_api import SavedModel, SavedModelError, load_arrays
from flexunet.serving.exported import ServedConfig, exported_config
from flexunet.serving.memory import PeakMemory, resident_megabytes
from flexunet.serving.wire import as_strings, read_warmup

SERVED: Final = (
    features.SIGNATURE_SERVING,
    features.SIGNATURE_REST,
    features.SIGNATURE_EXAMPLES,
    features.SIGNATURE_PIXELS,
    features.SIGNATURE_PROBABILITIES,
)
_BROKEN: Final = b"\x89PNG\r\n\x1a\n and nothing else"
_TIMED_CALLS: Final = 20


def main() -> None:
    """Writes the result; whatever goes wrong with the model is a problem in it, not an exit code."""
    model_directory, inputs, result = map(Path, sys.argv[1:4])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    findings = check_model(model_directory, load_arrays(inputs))
    assert "tensorflow" not in sys.modules, "the check must not use TensorFlow's Python"
    result.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")


def check_model(directory: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """`{problems, ...measurements}`; the measurements are those taken before something failed."""
    findings: dict[str, Any] = {"problems": []}
    try:
        config = exported_config(directory)
        started = time.monotonic()
        with SavedModel(directory) as model:
            findings |= {"load_seconds": time.monotonic() - started, "idle_megabytes": resident_megabytes()}
            peak = PeakMemory()
            for problem in _check(model, directory, config, inputs):
                findings["problems"].append(problem)
            if not findings["problems"]:
                findings |= _latency(model, directory)
            findings["megabytes_above_idle"] = peak.megabytes_above_idle()
    except (SavedModelError, UserError, ValueError, OSError) as error:
        findings["problems"].append(" ".join(str(error).split()))
    return findings


def _check(
    model: SavedModel, directory: Path, config: ServedConfig, inputs: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    yield from _check_warmup(model, directory)
    yield from _check_isolation(model, inputs["images"])
    yield from _check_counts(model, config, inputs)


def _check_warmup(model: SavedModel, directory: Path) -> Iterator[str]:
    """Replays every request; a record that fails would make TF Serving refuse the version."""
    seen = set()
    for signature, inputs in read_warmup(directory):
        seen.add(signature)
        rows = len(next(iter(inputs.values())))
        outputs = model.run(signature, inputs)
        yield from _check_outputs(f"warm-up of {signature}, {rows} rows", outputs, rows)
    for missing in sorted({*SERVED} - seen):
        yield f"no warm-up record for {missing}, expected one for each served signature"


def _check_outputs(what: str, outputs: Mapping[str, NDArray[Any]], rows: int) -> Iterator[str]:
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            yield f"{what}: {name} has shape {list(array.shape)}, expected {rows} rows"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"{what}: {name} is not finite"
    if not outputs.get(features.OUTPUT_VALID, np.array([True])).all():
        yield f"{what}: {outputs[features.OUTPUT_ERROR][0].decode(errors='replace')}"


def _check_isolation(model: SavedModel, images: NDArray[Any]) -> Iterator[str]:
    """A broken image between good ones."""
    alone = model.run(features.SIGNATURE_SERVING, {features.INPUT_IMAGE_BYTES: images[:1]})
    batch = as_strings([images[0], _BROKEN, images[0]])
    together = model.run(features.SIGNATURE_SERVING, {features.INPUT_IMAGE_BYTES: batch})
    if together[features.OUTPUT_VALID].tolist() != [True, False, True]:
        yield f"a broken image between two good ones: valid is {together[features.OUTPUT_VALID].tolist()}"
    elif any(together[features.OUTPUT_MASK_PNG][row] != alone[features.OUTPUT_MASK_PNG][0] for row in (0, 2)):
        yield "a broken image changes the answer to its batch-mates"


def _check_counts(model: SavedModel, config: ServedConfig, inputs: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """What is served must be what was measured: equal counts of truth and prediction, image by image."""
    served = model.run(features.SIGNATURE_SERVING, {features.INPUT_IMAGE_BYTES: inputs["images"]})
    measured = model.run(features.SIGNATURE_EVALUATE, {features.INPUT_EXAMPLES: inputs["examples"]})
    yield from _check_outputs("test images", served, len(inputs["images"]))
    for index, mask_png in enumerate(served[features.OUTPUT_MASK_PNG]):
        counts = _counts(mask_png, inputs["masks"][index], config) if mask_png else None
        if counts is not None and not np.array_equal(counts, measured[features.OUTPUT_COUNTS][index]):
            yield (
                f"test image {index}: serving_default counts {counts.tolist()}, "
                f"evaluate {measured[features.OUTPUT_COUNTS][index].tolist()}, expected the same"
            )


def _counts(mask_png: bytes, truth_png: bytes, config: ServedConfig) -> NDArray[np.int64]:
    """Pixel counts `[C, C]`, rows truth; pixels that nobody labelled are left out."""
    predicted = np.asarray(Image.open(io.BytesIO(mask_png)))
    truth_rgb = np.asarray(Image.open(io.BytesIO(truth_png)).convert("RGB"))
    truth, _ = class_ids_from_rgb(truth_rgb, config.classes, config.records)
    labelled = truth != features.IGNORE_ID
    counts = np.zeros((len(config.classes), len(config.classes)), np.int64)
    np.add.at(counts, (truth[labelled], predicted[labelled]), 1)
    return counts


def _latency(model: SavedModel, directory: Path) -> dict[str, Any]:
    """Of the warm-up's smallest and largest batch of encoded images."""
    batches = [inputs for signature, inputs in read_warmup(directory) if signature == features.SIGNATURE_SERVING]
    one = [_seconds(model, batches[0]) for _ in range(_TIMED_CALLS)]
    many = [_seconds(model, batches[-1]) for _ in range(3)]
    rows = len(batches[-1][features.INPUT_IMAGE_BYTES])
    return {
        "latency_seconds": {"p50": float(np.quantile(one, 0.5)), "p95": float(np.quantile(one, 0.95))},
        "batch": {"rows": rows, "images_per_second": rows / min(many)},
    }


def _seconds(model: SavedModel, inputs: dict[str, NDArray[Any]]) -> float:
    started = time.perf_counter()
    model.run(features.SIGNATURE_SERVING, inputs)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
