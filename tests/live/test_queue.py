"""`flexunet live queue`: what a watch kept, to be labelled next, and taken in as the next span."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import flexunet
from pictures import encoded
from PIL import Image
from sklearn.metrics import pairwise_distances
from small_disk import small_disk
from steel import CLASSES, NAMES

from flexunet.core.config.write import to_toml
from flexunet.core.errors import UserError
from flexunet.core.outlines import labelme_document
from pipeline.cli.queue import _new
from pipeline.queue import core_set, pick

SIZE = 32


def test_a_core_set_is_near_to_everything() -> None:
    """Against the definition: each next is the farthest from those taken, and no pick is twice as bad as the best."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((60, 5))
    chosen = core_set(features, 12)
    distances = pairwise_distances(features)
    assert chosen[0] == 0 and len({*chosen}) == 12
    for taken in range(1, 12):
        nearest = distances[:, chosen[:taken]].min(axis=1)
        assert nearest[chosen[taken]] == pytest.approx(nearest.max())
    at_random = np.mean([distances[:, generator.choice(60, 12, False)].min(axis=1).max() for _ in range(50)])
    assert distances[:, chosen].min(axis=1).max() < at_random
    assert core_set(features[:3], 12) == core_set(features[:3], 3) and len(core_set(features[:3], 12)) == 3
    # Copies of one image are taken once each, at the end.
    assert core_set(np.zeros((3, 2)), 3) == [0, 1, 2]


@pytest.fixture(scope="module")
def version(make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of this project, with the weights that it began with, as version 3 of a run."""
    from flexunet.core.config.section import part_of
    from flexunet.core.config.train import TrainerConfig
    from trainer_module.export import export_model
    from trainer_module.model import build_model

    config = part_of(make_config(), TrainerConfig)
    directory = tmp_path_factory.mktemp("queued") / "serving_model" / "3"
    export_model(build_model(config), config, {"parameters": 1}, directory)
    return directory


def surface(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def test_new_images_are_picked_once_and_come_back_as_the_next_span(
    version: Path, tmp_path: Path, write_colorful_pairs: Any
) -> None:
    root = version.parents[1]
    write_colorful_pairs(tmp_path / "source", 24)
    (tmp_path / "mine.toml").write_text(to_toml({"classes": CLASSES, "image": {"height": SIZE, "width": SIZE}}))
    assert flexunet(tmp_path, "ingest", "source", "records", "--config", "mine.toml").exit_code == 0
    kept, of_pod = root / "live" / "images", tmp_path / "pod" / "images"
    kept.mkdir(parents=True)
    of_pod.mkdir(parents=True)
    for number in range(12):
        (of_pod if number < 4 else kept).joinpath(f"random-0.5-{number}.png").write_bytes(encoded(surface(number)))
    (kept / "unsure-0.5-0.png").write_bytes(encoded(surface(0)))
    (kept / "unsure-0.5-turned.png").write_bytes(encoded(np.rot90(surface(1))))
    (kept / "random-0.1-known.png").write_bytes((tmp_path / "source" / "images" / "003.png").read_bytes())
    (kept / "random-0.1-broken.png").write_bytes(b"no image")
    command = ["live", "queue", str(root), "--data", "records", "--count", "8"]
    command += ["--watched", str(root / "live"), "--watched", "pod", "--watched", "pod-that-keeps-none"]

    done = flexunet(tmp_path, *command, "--out", "to-label")
    assert done.exit_code == 0, done.output
    assert "8 of 16 images (1 known, 1 like another, 1 without an answer)" in done.stdout
    pictures = sorted((tmp_path / "to-label").glob("*.png"))
    assert len(pictures) == 8
    fresh = {surface(number).tobytes() for number in range(12)} | {np.rot90(surface(1)).tobytes()}
    assert {np.asarray(Image.open(path)).tobytes() for path in pictures} <= fresh
    documents = [json.loads(path.with_suffix(".json").read_text()) for path in pictures]
    assert [document["imagePath"] for document in documents] == [path.name for path in pictures]

    again = flexunet(tmp_path, *command, "--out", "coco", "--format", "coco")
    assert again.exit_code == 0 and (tmp_path / "coco" / "annotations.json").is_file()
    refused = flexunet(tmp_path, *command, "--out", "coco")
    assert refused.exit_code == 1 and "holds files already" in refused.stderr

    # As people correct them: ingest wants every class in a span.
    corrected = np.zeros((SIZE, SIZE), np.uint8)
    for class_id in (1, 2, 3):
        corrected[8 * class_id : 8 * class_id + 6, 4:20] = class_id
    for path in pictures:
        path.with_suffix(".json").write_text(json.dumps(labelme_document(path.name, corrected, NAMES)))
    taken = flexunet(tmp_path, "ingest", "to-label", "records", "--config", "mine.toml", "--span", "next")
    assert taken.exit_code == 0, taken.output
    spans = json.loads((tmp_path / "records" / "dataset.json").read_text())["spans"]
    assert {span["span"]: span["images"] for span in spans} == {1: 24, 2: 8}
    assert [span.get("queue", {}).get("version") for span in spans] == [None, 3]


def test_what_a_watch_removes_meanwhile_is_counted_and_leaves_nothing(version: Path, tmp_path: Path) -> None:
    watched, folder = tmp_path / "watched", tmp_path / "folder"
    watched.mkdir()
    folder.mkdir()
    files = [watched / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        file.write_bytes(encoded(surface(number)))
    looked_at = itertools.count(1)

    def step() -> None:
        """The second goes before it is looked at, the first after all were."""
        [file] = {1: [files[1]], 6: [files[0]]}.get(next(looked_at), [None])
        if file:
            file.unlink()

    picked = pick(version, files, None, 3, folder, step)
    assert (len(picked.candidates), picked.gone) == (3, 2)
    assert {path.name for path in folder.iterdir()} == {candidate.name for candidate in picked.candidates}
    assert {candidate.file for candidate in picked.candidates} <= {*files[2:]}


def test_nothing_that_was_watched_is_one_line(version: Path, tmp_path: Path) -> None:
    watched = str(tmp_path / "live")
    done = flexunet(tmp_path, "live", "queue", str(version.parents[1]), "--out", "out", "--watched", watched)
    assert done.exit_code == 1 and "--keep-images" in done.stderr and "Traceback" not in done.stderr


def test_a_queue_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with _new(tmp_path / "fresh") as aside:
        (aside / "0.png").write_text("whole")
        with pytest.raises(UserError, match="fresh: another process writes there"), _new(tmp_path / "fresh"):
            pytest.fail("two write into one folder")
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["0.png"]
    with pytest.raises(OSError, match="full"), _new(tmp_path / "none") as aside:
        (aside / "0.png").write_text("a part")
        raise OSError("full")
    assert not (tmp_path / "none").exists()


def test_a_queue_may_be_a_volume(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 16) as disk:
        with _new(disk) as aside:
            (aside / "0.png").write_text("whole")
        assert [path.name for path in disk.iterdir()] == ["0.png"]
