"""Draws the committed pictures: the pipeline from the pipeline itself, predictions from a run of `make demo`.

python -m docs.pictures pipeline
python -m docs.pictures predictions runs/demo
"""

import csv
import html
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from tfx.dsl.components.base.base_node import BaseNode

    from flexunet.serving.client import Model
    from flexunet.serving.exported import ServedConfig

IMAGES: Final = Path(__file__).parent / "images"
COLUMNS: Final = 6
TILE, GAP = 160, 6

# Column and row of each box. What is not a node of the pipeline is what it reads and writes.
PLACES: Final = {
    "images and masks": (0, 1),
    "records": (1, 1),
    "RecordGen": (2, 1),
    "RecordSchema": (2, 0),
    "StatisticsGen": (3, 1),
    "PreviousSpanResolver": (4, 0),
    "DriftReporter": (5, 0),
    "ExampleValidator": (4, 1),
    "MaskValidator": (5, 1),
    "Transform": (6, 1),
    "Trainer": (6, 2),
    "BaselineResolver": (5, 2),
    "Evaluator": (4, 2),
    "ServingValidator": (3, 2),
    "Pusher": (2, 2),
    "TF Serving": (1, 2),
    "Reporter": (2, 3),
    "report": (1, 3),
}
OUTSIDE: Final = {
    ("images and masks", "records"): "ingest",
    ("records", "RecordGen"): "",
    ("Pusher", "TF Serving"): "version N",
    ("Reporter", "report"): "",
}
# Not needed to order the nodes, and worth seeing.
ALSO: Final = {("RecordGen", "Evaluator"): "raw test records"}
WORDS: Final = {("MaskValidator", "Transform"): "found good", ("ServingValidator", "Pusher"): "can be served"}
# Drawn along the right border: a straight line would cross other boxes.
AROUND: Final = {("DriftReporter", "Reporter")}
BOX_WIDTH, BOX_HEIGHT, STEP_X, STEP_Y, MARGIN = 150, 36, 190, 84, 24
FILLS: Final = {"stock": "#e8eaf6", "ours": "#bbdefb", "outside": "#ffffff"}


def main(arguments: list[str]) -> None:
    """Writes the picture that is named."""
    which, *rest = arguments
    if which == "pipeline":
        (IMAGES / "pipeline.svg").write_text(pipeline_svg(), encoding="utf-8")
    else:
        predictions(Path(rest[0])).save(IMAGES / "predictions.png", optimize=True)


def pipeline_svg() -> str:
    """The nodes and what each waits for, an SVG."""
    kinds, edges = pipeline_graph()
    assert set(PLACES) >= set(kinds), f"give a place to {set(kinds) - set(PLACES)}"
    edges = {**dict.fromkeys(edges, ""), **WORDS, **OUTSIDE, **ALSO}
    width, height = MARGIN * 2 + STEP_X * 6 + BOX_WIDTH, MARGIN * 2 + STEP_Y * 3 + BOX_HEIGHT + 28
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13" role="img">',
        "<title>The pipeline: from images and masks to a served model and a report</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#455a64"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="10" fill="#fafafa"/>',
        *(line for (start, end), words in edges.items() for line in _arrow(start, end, words)),
        *(line for name in PLACES for line in _box(name, kinds.get(name, "outside"))),
        f'<text x="{MARGIN}" y="{height - 16}" fill="#455a64">dark: our nodes and strategies; light: TFX&#8217;s own '
        "nodes, running our code; white: files and servers. An arrow: waits for.</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def pipeline_graph() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Of each node whether it is ours, and the edges without those that follow from others."""
    from tfx.orchestration import metadata

    from flexunet.core.config.load import load_config
    from pipeline import dag

    connection = metadata.sqlite_metadata_connection_config("metadata.db")
    nodes = dag.create_pipeline(load_config("demo"), dag.Paths("records", "root"), connection, []).components
    before = {node.id: {upstream.id for upstream in node.upstream_nodes} for node in nodes}
    edges = [
        (start, end)
        for end, starts in before.items()
        for start in sorted(starts)
        if not any(start in _ancestors(other, before) for other in starts)
    ]
    return {node.id: _kind(node) for node in nodes}, edges


def _ancestors(node: str, before: Mapping[str, Iterable[str]]) -> set[str]:
    found = set(before[node])
    return found.union(*(_ancestors(parent, before) for parent in found))


def _kind(node: "BaseNode") -> str:
    module = type(node).__module__
    is_ours = module.startswith("components.") or "Resolver" in node.id
    return "ours" if is_ours else "stock"


def _centre(name: str) -> tuple[float, float]:
    column, row = PLACES[name]
    return MARGIN + column * STEP_X + BOX_WIDTH / 2, MARGIN + row * STEP_Y + BOX_HEIGHT / 2


def _box(name: str, kind: str) -> Iterator[str]:
    x, y = _centre(name)
    yield (
        f'<rect x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'fill="{FILLS[kind]}" stroke="#455a64"/>'
    )
    yield f'<text x="{x:g}" y="{y + 4:g}" text-anchor="middle" fill="#212121">{html.escape(name)}</text>'


def _arrow(start: str, end: str, words: str) -> Iterator[str]:
    """From border to border, along the longer way."""
    (x1, y1), (x2, y2) = _centre(start), _centre(end)
    if (start, end) in AROUND:
        right = MARGIN * 1.5 + STEP_X * 6 + BOX_WIDTH
        path = f"M{x1 + BOX_WIDTH / 2:g},{y1:g} H{right:g} V{y2:g} H{x2 + BOX_WIDTH / 2:g}"
        yield f'<path d="{path}" fill="none" stroke="#455a64" marker-end="url(#tip)"/>'
        return
    if y1 == y2 or (abs(x2 - x1) < STEP_X * 1.5 and x1 != x2):
        side = BOX_WIDTH / 2 if x2 > x1 else -BOX_WIDTH / 2
        x1, x2 = x1 + side, x2 - side
    else:
        side = BOX_HEIGHT / 2 if y2 > y1 else -BOX_HEIGHT / 2
        y1, y2 = y1 + side, y2 - side
    yield f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" fill="none" stroke="#455a64" marker-end="url(#tip)"/>'
    if words:
        x, y = (x1 + x2) / 2, (y1 + y2) / 2 - 24 if y1 == y2 else (y1 + y2) / 2 - 4
        style = 'text-anchor="middle" fill="#455a64" font-size="11"'
        yield f'<text x="{x:g}" y="{y:g}" {style}>{html.escape(words)}</text>'


def predictions(root: Path) -> "Image.Image":
    """Six test images of the demo in `root`: image, truth, prediction; the first column has no defect."""
    from PIL import Image

    from flexunet.serving.client import Options, connect
    from flexunet.serving.exported import exported_config
    from flexunet.serving.versions import model_directory

    directory = model_directory(root / "serving_model")
    chosen = chosen_images(root)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) - GAP, 3 * (TILE + GAP) - GAP), "white")
    with connect(str(directory), Options()) as model:
        for column, image in enumerate(chosen):
            for row, tile in enumerate(_tiles(image, model, exported_config(directory))):
                large = tile.resize((TILE, TILE), Image.Resampling.NEAREST)
                sheet.paste(large, (column * (TILE + GAP), row * (TILE + GAP)))
    return sheet


def chosen_images(root: Path) -> list[Path]:
    """In the order of their ids: the first test image without defect, then the first that show two kinds."""
    import numpy as np
    from PIL import Image

    surfaces = root / "data" / "surfaces"
    [rows] = (root / "data" / "records" / "span-1").glob("version-1/images.csv")
    with rows.open(newline="", encoding="utf-8") as file:
        test = sorted(row["id"] for row in csv.DictReader(file) if row["split"] == "test")
    colors = {name: len(np.unique(_pixels(Image.open(surfaces / "masks" / f"{name}.png")), axis=0)) for name in test}
    clean = [name for name in test if colors[name] == 1][:1]
    mixed = [name for name in test if colors[name] == 3][: COLUMNS - len(clean)]
    return [surfaces / "images" / f"{name}.png" for name in [*clean, *mixed]]


def _tiles(path: Path, model: "Model", config: "ServedConfig") -> Iterator["Image.Image"]:
    import numpy as np
    from PIL import Image

    from flexunet.core.palette import class_ids_from_rgb, rgb_from_class_ids
    from flexunet.serving.client import predict_image
    from flexunet.serving.outputs import overlay

    image = Image.open(path)
    mask = np.asarray(Image.open(path.parents[1] / "masks" / path.name))
    truth, _ = class_ids_from_rgb(mask, config.classes, config.records)
    yield image
    for class_ids in (truth, predict_image(model, path.read_bytes()).class_ids):
        yield overlay(image, rgb_from_class_ids(class_ids, config.classes), class_ids)


def _pixels(image: "Image.Image") -> "NDArray[np.uint8]":
    import numpy as np

    return np.asarray(image.convert("RGB")).reshape(-1, 3)


if __name__ == "__main__":
    main(sys.argv[1:])
