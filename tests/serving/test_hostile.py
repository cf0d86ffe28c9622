"""Hostile images against the export in TF Serving's session: no crash, right batch-mates, bounded memory, a reason."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import python

from flexunet.serving.c_api import SavedModel, SavedModelError, save_arrays
from flexunet.serving.wire import as_strings

# Sends each image between two good ones and prints, for each, valid, error, whether the good ones were right, and at
# last the peak memory above idle.
PROBE = """
import json, sys
from pathlib import Path
import numpy as np
from flexunet.serving.c_api import SavedModel, load_arrays
from flexunet.serving.memory import PeakMemory
from flexunet.serving.wire import as_strings

arrays = load_arrays(Path(sys.argv[2]))
good, images = arrays["good"][0], arrays["images"]
with SavedModel(Path(sys.argv[1])) as model:
    expected = model.run("serving_default", {"image_bytes": as_strings([good])})["mask_png"][0]
    peak, rows = PeakMemory(), []
    for image in images:
        outputs = model.run("serving_default", {"image_bytes": as_strings([good, image, good])})
        mates = all(outputs["mask_png"][i] == expected and outputs["valid"][i] for i in (0, 2))
        # What one image has of its own in the graph.
        alone = model.run("serving_default", {"image_bytes": as_strings([image])})
        mates &= all(alone[name][0] == outputs[name][1] for name in ("valid", "error", "mask_png"))
        rows.append([bool(outputs["valid"][1]), outputs["error"][1].decode(), mates, len(outputs["mask_png"][1])])
    print(json.dumps({"rows": rows, "megabytes": peak.megabytes_above_idle()}))
"""


def probe(directory: Path, good: bytes, images: list[bytes], folder: Path) -> dict[str, Any]:
    save_arrays(folder / "inputs.npz", {"good": as_strings([good]), "images": as_strings(images)})
    return json.loads(python("-c", PROBE, directory, folder / "inputs.npz"))


# How an image is padded comes after all that is refused.
@pytest.mark.parametrize("fit", ["stretch", pytest.param("pad", marks=pytest.mark.slow), "tile"])
def test_hostile_images_get_a_reason_and_their_batch_mates_an_answer(
    fit: str, make_color_export: Any, hostile_images: Any, odd_images: Any, good_image: Any, tmp_path: Path
) -> None:
    directory = make_color_export(fit=fit, tile_overlap=8)
    assert len(hostile_images) >= 30
    names = [*hostile_images, *odd_images]
    found = probe(directory, good_image[0], [*hostile_images.values(), *odd_images.values()], tmp_path)
    for name, (valid, error, mates_are_right, mask_bytes) in zip(names, found["rows"], strict=True):
        assert mates_are_right, name
        assert valid == (name in odd_images), (name, error)
        assert (len(error) > 5) != valid and "\n" not in error, (name, error)
        assert (mask_bytes > 0) == valid, name
    assert found["megabytes"] <= 400


def test_the_reason_says_what_is_wrong(color_export: Path, hostile_images: Any) -> None:
    limit = "expected at most 50,000,000 pixels (image.max_pixels): scale it down or raise the limit"
    damaged = "damaged or truncated: it cannot be decoded; expected a whole image file: replace it"
    picture = "expected a PNG, JPEG, BMP or WebP picture"
    convert = "`flexunet ingest` and `flexunet predict` convert it; for a server save it as PNG"
    reasons = {
        "PNG of 13000x13000": f"13000x13000 pixels; {limit}",
        "BMP that says 30000x30000": f"30000x30000 pixels; {limit}",
        "JPEG that says 65535x65535": f"65535x65535 pixels; {limit}",
        "still GIF": f"a GIF; {picture}: {convert}",
        "TIFF": f"a TIFF; {picture}: {convert}",
        "animated WEBP": "an animated WebP; expected a single picture: save the picture that is meant as a file of its "
        "own",
        "JPEG of nothing but fillers": damaged,
        "JPEG cut at 160": damaged,
        "random bytes behind a PNG header": damaged,
        "text": f"no picture by its first bytes; {picture}: save it as PNG",
        "empty": f"no bytes; {picture}: copy it again",
    }
    with SavedModel(color_export) as model:
        images = as_strings([hostile_images[name] for name in reasons])
        outputs = model.run("serving_default", {"image_bytes": images})
    assert dict(zip(reasons, (e.decode() for e in outputs["error"]), strict=True)) == reasons


def test_unusual_images_get_the_answer_of_usual_ones(color_export: Path, odd_images: Any, good_image: Any) -> None:
    same = ["CMYK JPEG", "PNG with alpha", "palette PNG", "lossless WebP", "WebP with alpha", "JPEG", "BMP"]
    same += ["BMP with a palette", "JPEG turned by EXIF", "WebP that is transparent"]
    with SavedModel(color_export) as model:
        outputs = model.run("serving_default", {"image_bytes": as_strings([odd_images[name] for name in same])})
    for name, mask in zip(same, outputs["mask_png"], strict=True):
        class_ids = np.asarray(Image.open(io.BytesIO(mask)))
        assert (class_ids == good_image[1]).mean() > 0.9, name


def test_a_large_image_within_the_limit_takes_bounded_memory(
    color_export: Path, good_image: Any, tmp_path: Path, make_bomb: Any
) -> None:
    """7,000x7,000 pixels: all classes at its size would take 784 MB."""
    found = probe(color_export, good_image[0], [make_bomb(7000, 7000)], tmp_path)
    [(valid, error, mates_are_right, _)] = found["rows"]
    assert valid and mates_are_right, error
    assert found["megabytes"] <= 800


def test_a_row_of_pixels_is_not_padded_to_gigabytes_of_tiles(
    make_color_export: Any, good_image: Any, tmp_path: Path, make_bomb: Any
) -> None:
    found = probe(make_color_export(fit="tile", tile_overlap=8), good_image[0], [make_bomb(40_000_000, 1)], tmp_path)
    [(valid, error, mates_are_right, _)] = found["rows"]
    assert not valid and mates_are_right
    assert error.startswith("too long and thin")
    assert found["megabytes"] <= 400


def test_pixels_are_not_padded_to_gigabytes_of_tiles_either(make_color_export: Any) -> None:
    """3 MB; one tile wide they are 48 times as many pixels."""
    sliver = np.zeros((1, 1_100_000, 1, 3), np.uint8)
    with SavedModel(make_color_export(fit="tile", tile_overlap=8)) as model:
        for signature in ("pixels", "probabilities"):
            with pytest.raises(SavedModelError, match="padded to whole tiles"):
                model.run(signature, {"pixels": sliver})
