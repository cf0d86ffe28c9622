"""The same surfaces written as public data sets and labelling tools lay them out; outlines follow the pixels."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

NAMES = ("background", "inclusion", "patches", "scratches")
COLORS = np.array([(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)], np.uint8)

# Stem -> image uint8 [h, w, 3] and class ids uint8 [h, w].
Surfaces = dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def images(root: Path, surfaces: Surfaces, pattern: str = "images/{}.png") -> None:
    for stem, (image, _) in surfaces.items():
        save(root / pattern.format(stem), image)


def color_masks(root: Path, surfaces: Surfaces, pattern: str) -> None:
    for stem, (_, class_ids) in surfaces.items():
        save(root / pattern.format(stem), COLORS[class_ids])


def folders(image: str, mask: str) -> Callable[[Path, Surfaces], None]:
    def write(root: Path, surfaces: Surfaces) -> None:
        images(root, surfaces, image)
        color_masks(root, surfaces, mask)

    return write


def voc(root: Path, surfaces: Surfaces) -> None:
    """As CVAT writes it, with palette masks as VOC has them."""
    images(root, surfaces, "JPEGImages/{}.png")
    for stem, (_, class_ids) in surfaces.items():
        mask = Image.fromarray(class_ids, "P")
        mask.putpalette(COLORS.tobytes())
        for folder in ("SegmentationClass", "SegmentationObject"):
            (root / folder).mkdir(exist_ok=True)
            mask.save(root / folder / f"{stem}.png")
    lines = [
        "# label:color_rgb:parts:actions",
        *(f"{n}:{','.join(map(str, c))}::" for n, c in zip(NAMES, COLORS, strict=True)),
    ]
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("\n".join(surfaces) + "\n")


def runs(region: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Row, first column and column after the last of every horizontal run."""
    for row, line in enumerate(region):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        for start, stop in edges.reshape(-1, 2).tolist():
            yield row, start, stop


def outlines(region: NDArray[np.bool_]) -> list[list[float]]:
    """Rectangles whose union is the region."""
    return [[x, y, end, y, end, y + 1, x, y + 1] for y, x, end in runs(region)]


def regions(class_ids: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for class_id in sorted({*class_ids.ravel().tolist()} - {0}):
        yield class_id, class_ids == class_id


def as_polygons(region: NDArray[np.bool_]) -> Any:
    return outlines(region)


def as_packed(region: NDArray[np.bool_]) -> Any:
    packed = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def as_counts(region: NDArray[np.bool_]) -> Any:
    flat = region.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(region.shape), "counts": [0, *counts] if flat[0] else counts}


def coco_document(surfaces: Surfaces, segmentation: Callable[[NDArray[np.bool_]], Any] = as_polygons) -> dict[str, Any]:
    found: dict[str, Any] = {"info": {"year": 2026}, "licenses": [], "images": [], "annotations": []}
    for number, (stem, (image, class_ids)) in enumerate(surfaces.items(), start=7):
        height, width = image.shape[:2]
        found["images"].append({"id": number, "file_name": f"{stem}.png", "width": width, "height": height})
        for class_id, region in regions(class_ids):
            found["annotations"].append(
                {
                    "id": len(found["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 10 * class_id,
                    "segmentation": segmentation(region),
                    "area": int(region.sum()),
                    "bbox": coco_mask.toBbox(as_packed(region)).tolist(),
                    "iscrowd": int(segmentation is as_counts),
                }
            )
    # Last, as some tools write them.
    found["categories"] = [{"id": 10 * i, "name": name, "supercategory": ""} for i, name in enumerate(NAMES) if i]
    return found


def coco(segmentation: Callable[[NDArray[np.bool_]], Any]) -> Callable[[Path, Surfaces], None]:
    def write(root: Path, surfaces: Surfaces) -> None:
        images(root, surfaces)
        (root / "annotations").mkdir()
        (root / "annotations/instances_default.json").write_text(json.dumps(coco_document(surfaces, segmentation)))

    return write


def labelme_document(stem: str, image: NDArray[np.uint8], class_ids: NDArray[np.uint8]) -> dict[str, Any]:
    shapes = [
        {
            "label": NAMES[class_id],
            "points": np.reshape(polygon, (-1, 2)).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for class_id, region in regions(class_ids)
        for polygon in outlines(region)
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"..\\photos\\{stem}.png",
        "imageData": None,
        "imageHeight": image.shape[0],
        "imageWidth": image.shape[1],
    }


def labelme(image: str, document: str) -> Callable[[Path, Surfaces], None]:
    def write(root: Path, surfaces: Surfaces) -> None:
        images(root, surfaces, image)
        for stem, (pixels, class_ids) in surfaces.items():
            path = root / document.format(stem)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(labelme_document(stem, pixels, class_ids)))

    return write


def yolo(root: Path, surfaces: Surfaces) -> None:
    images(root, surfaces)
    (root / "labels").mkdir()
    for stem, (image, class_ids) in surfaces.items():
        height, width = image.shape[:2]
        lines = [
            " ".join(
                [str(class_id - 1), *(f"{float(v):.9f}" for v in (np.reshape(p, (-1, 2)) / (width, height)).ravel())]
            )
            for class_id, region in regions(class_ids)
            for p in outlines(region)
        ]
        (root / "labels" / f"{stem}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(
        yaml.safe_dump({"path": ".", "train": "images", "names": dict(enumerate(NAMES[1:]))})
    )


def severstal(root: Path, surfaces: Surfaces) -> None:
    images(root, surfaces, "train_images/{}.png")
    images(root, dict(list(surfaces.items())[:2]), "test_images/unlabelled-{}.png")
    with (root / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "ClassId", "EncodedPixels"])
        for stem, (_, class_ids) in surfaces.items():
            for class_id, region in regions(class_ids):
                pixels = [(0, 0, 0)] if not region.any() else runs(region.T.reshape(1, -1))
                writer.writerow(
                    [f"{stem}.png", class_id, " ".join(f"{start + 1} {end - start}" for _, start, end in pixels)]
                )


def class_masks(pattern: str) -> Callable[[Path, Surfaces], None]:
    def write(root: Path, surfaces: Surfaces) -> None:
        images(root, surfaces)
        for stem, (_, class_ids) in surfaces.items():
            for class_id, name in enumerate(NAMES):
                if class_id:
                    save(root / pattern.format(stem, name), (class_ids == class_id).astype(np.uint8) * 255)

    return write


def npz(make: Callable[[NDArray[np.uint8]], NDArray[Any]], **names: str) -> Callable[[Path, Surfaces], None]:
    def write(root: Path, surfaces: Surfaces) -> None:
        images(root, surfaces)
        (root / "masks").mkdir()
        for stem, (_, class_ids) in surfaces.items():
            np.savez_compressed(root / "masks" / f"{stem}.npz", **{names.get("key", "mask"): make(class_ids)})

    return write


def one_hot(class_ids: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.eye(len(NAMES), dtype=np.float32)[class_ids]
