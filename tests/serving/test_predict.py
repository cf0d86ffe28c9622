"""Files in, pictures and areas out; by folder and by URL, whole and in tiles."""

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import layout_sources
import numpy as np
import pytest
import tensorflow as tf
from command_line import exit_code
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_disk import fill, small_disk

from flexunet.dataset.examine import read_class_ids
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.synthetic import generate_surface
from flexunet.serving.outputs import COCO_FILE
from flexunet.serving.server import Server


@pytest.fixture
def photos(tmp_path: Path, good_image: Any) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(good_image[0])
    picture = Image.open(folder / "good.png")
    picture.resize((200, 150), Image.Resampling.NEAREST).save(folder / "large.png")
    return folder


@pytest.fixture
def config(tmp_path: Path, make_config: Any) -> Path:
    lines = []
    for segmentation_class in make_config().classes:
        lines += ["[[classes]]", f'name = "{segmentation_class.name}"', f"color = {list(segmentation_class.color)}"]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([*lines, "[image]", "height = 48", "width = 48"]) + "\n")
    return path


@pytest.fixture
def served(server: Server, config: Path) -> tuple[Any, ...]:
    """A running server, whose first answers took their seconds: where files are looked at, and not who answers."""
    return f"grpc://127.0.0.1:{server.grpc_port}", "--config", config


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "areas.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("interface", ["folder", "grpc", "http"])
def test_every_interface_gives_the_same_files(
    interface: str, server: Server, color_export: Path, photos: Path, config: Path, tmp_path: Path, capfd: Any
) -> None:
    target = {
        "folder": [color_export],
        "grpc": [f"grpc://127.0.0.1:{server.grpc_port}", "--config", config],
        "http": [f"http://127.0.0.1:{server.rest_port}", "--config", config],
    }[interface]
    out = tmp_path / "out"
    assert exit_code("predict", target[0], photos, "--out", out, *target[1:]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        *("areas.csv", "good_mask.png", "good_overlay.png", "large_mask.png", "large_overlay.png"),
    ]
    printed = capfd.readouterr().out
    assert "2 of 2 images" in printed and "p50" in printed and "p95" in printed
    found = {(Path(row["image"]).stem, row["class"]): row for row in rows(out)}
    assert found["good", "inclusion"] == {
        "image": str(photos / "good.png"),
        "class": "inclusion",
        "pixels": "156",
        "share": "0.067708",
        "regions": "1",
        "boxes": "4 8 26 6",
    }
    assert found["good", "background"]["regions"] == "" and found["good", "background"]["boxes"] == ""


def test_tiles_keep_the_scale_and_give_what_the_colors_say(served: Any, photos: Path, tmp_path: Path) -> None:
    assert exit_code("predict", *served, photos / "large.png", "--out", tmp_path / "out", "--tiled") == 0
    mask, picture = (np.asarray(Image.open(p)) for p in (tmp_path / "out" / "large_mask.png", photos / "large.png"))
    np.testing.assert_array_equal(mask, picture)


def test_every_file_without_an_answer_is_named_with_its_reason(
    served: Any, photos: Path, tmp_path: Path, hostile_images: Any, capfd: Any
) -> None:
    for name in ("animated GIF", "empty", "PNG of 13000x13000"):
        (photos / f"{name}.png").write_bytes(hostile_images[name])
    out = tmp_path / "out"
    assert exit_code("predict", *served, photos, "--out", out) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition("photos/")[2] for line in lines] == [
        "PNG of 13000x13000.png: no prediction (13000x13000 pixels; expected at most 50,000,000 pixels "
        "(image.max_pixels): scale it down or raise the limit)",
        "animated GIF.png: no prediction (a GIF of several pictures; expected a single picture: save the picture that "
        "is meant as a file of its own)",
        "empty.png: no prediction (no bytes; expected a PNG, JPEG, BMP or WebP picture: copy it again)",
    ]
    assert (out / "good_mask.png").is_file() and not (out / "empty_mask.png").exists()
    assert len(rows(out)) == 2 * 4


def test_folders_are_searched_as_ingest_does(served: Any, photos: Path, tmp_path: Path, capfd: Any) -> None:
    picture = Image.open(photos / "good.png")
    for name in ("UPPER.PNG", "sub/deep.png", ".ipynb_checkpoints/good-checkpoint.png", "._good.png", "notes.txt"):
        (photos / name).parent.mkdir(exist_ok=True)
        picture.save(photos / name, "PNG")
    (tmp_path / "elsewhere").mkdir()
    picture.save(tmp_path / "elsewhere" / "linked.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "circle").symlink_to(photos)
    for out in (photos / "earlier", photos / "out"):
        assert exit_code("predict", *served, photos, "--out", out) == 0
        printed = " ".join(capfd.readouterr().out.split())
        assert "5 of 5 images" in printed
        assert "1 in hidden folders" in printed and "1 with the suffix .txt" in printed and "1 hidden" in printed
    assert "11 written by `flexunet predict`" in printed
    assert sorted({Path(row["image"]).name for row in rows(photos / "out")}) == [
        *("UPPER.PNG", "deep.png", "good.png", "large.png", "linked.png"),
    ]


def test_what_ingest_turns_and_converts_predict_does_too(
    served: Any, good_image: Any, odd_images: Any, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "good.png").write_bytes(good_image[0])
    with Image.open(folder / "good.png") as picture:
        picture.save(folder / "scan.tif")
        picture.crop((0, 0, 48, 30)).transpose(Image.Transpose.ROTATE_90).save(
            folder / "photo.png", exif=orientation(6)
        )
        Image.fromarray(np.asarray(picture).astype(np.float32)[..., 0] / 255).save(folder / "float.tiff")
    assert exit_code("predict", *served, folder, "--out", out) == 1
    expected = np.asarray(Image.open(out / "good_mask.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(out / "scan_mask.png")), expected)
    turned = np.asarray(Image.open(out / "photo_mask.png"))
    assert turned.shape == (30, 48, 3) == np.asarray(Image.open(out / "photo_overlay.png")).shape
    assert (turned[:24] == expected[:24]).mean() > 0.95
    assert not (out / "float_mask.png").exists()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_predictions_are_annotations_that_ingest_reads(
    kind: str, served: Any, photos: Path, tmp_path: Path, make_config: Any
) -> None:
    """Out and in again: the same pixels as the masks that are written as pictures."""
    out = tmp_path / "out"
    assert exit_code("predict", *served, photos, "--out", out, "--format", kind) == 0
    assert exit_code("predict", *served, photos, "--out", tmp_path / "masks") == 0
    names = {"coco": ["annotations.json"], "labelme": ["good.json", "large.json"]}[kind]
    assert sorted(path.name for path in out.iterdir()) == sorted(["areas.csv", *names])
    for name in names:
        (out / name).rename(photos / name)
    layout = find_layout(photos)
    assert (layout.name, layout.problems, len(layout.pairs)) == (kind, [], 2)
    colors = np.array([c.color for c in make_config().classes], np.uint8)
    for pair in layout.pairs:
        class_ids = read_class_ids(pair, Image.open(pair.image).size, make_config())
        np.testing.assert_array_equal(colors[class_ids], np.asarray(Image.open(tmp_path / f"masks/{pair.id}_mask.png")))


@pytest.mark.parametrize(("kind", "name"), [("png", "good_mask.png"), ("labelme", "good.json"), ("coco", COCO_FILE)])
def test_what_a_person_made_is_never_written_over(
    kind: str, name: str, served: Any, photos: Path, tmp_path: Path, capfd: Any
) -> None:
    """Masks beside images, outlines that labelme keeps there, and a table of somebody's areas."""
    command = ("predict", *served, photos / "good.png", "--format", kind, "--out")
    for made in (name, "areas.csv"):
        (photos / made).write_text("by hand")
        before = {path: path.read_bytes() for path in photos.iterdir()}
        assert exit_code(*command, photos) == 1
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: {photos / made}: there already") and "name another --out" in line
        assert {path: path.read_bytes() for path in photos.iterdir()} == before
        (photos / made).unlink()
    # What was predicted may be predicted again, but annotations may have been corrected since.
    assert exit_code(*command, tmp_path / "out") == 0
    assert exit_code(*command, tmp_path / "out") == (0 if kind == "png" else 1)


def test_images_of_one_stem_are_told_apart_by_their_folders(served: Any, photos: Path, tmp_path: Path) -> None:
    """As two cameras leave them; what no folder tells apart has a number, and nothing is written over."""
    folders = ("left/first", "right/first", "left/second")
    for folder in folders:
        (photos / folder).mkdir(parents=True)
        (photos / folder / "001.png").write_bytes((photos / "good.png").read_bytes())
    Image.open(photos / "good.png").save(photos / "good.bmp")
    out = tmp_path / "out"
    assert exit_code("predict", *served, photos, "--out", out) == 0
    assert sorted(path.name.removesuffix("_mask.png") for path in out.glob("*_mask.png")) == [
        *("good", "good-2", "large", "left-first-001", "left-second-001", "right-first-001"),
    ]
    assert exit_code("predict", *served, photos / "left/first", photos / "right/first", "--out", tmp_path / "two") == 0
    assert sorted(path.name for path in (tmp_path / "two").glob("*_mask.png")) == [
        *("left-first-001_mask.png", "right-first-001_mask.png"),
    ]


def test_names_that_are_no_unicode(served: Any, photos: Path, tmp_path: Path, capfd: Any) -> None:
    """As an archive of an old Windows leaves them."""
    for name in (b"Pr\xfcf.png", b"Pr\xfcf.docx"):
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes((photos / "good.png").read_bytes())
    assert exit_code("predict", *served, photos, "--out", tmp_path / "out") == 0
    assert "with the suffix .docx (such as" in capfd.readouterr().out
    assert len(rows(tmp_path / "out")) == 3 * 4


def test_an_address_without_its_protocol_is_told_the_url(photos: Path, tmp_path: Path, capfd: Any) -> None:
    assert exit_code("predict", "localhost:8500", photos, "--out", tmp_path / "out") == 1
    assert "of a server its URL, such as grpc://localhost:8500" in capfd.readouterr().err


def images_and_masks(records: Path) -> dict[str, tuple[bytes, bytes]]:
    """Id -> encoded image and mask of every record, whatever its split."""
    files = sorted(map(str, records.glob("span-1/version-1/*/*.tfrecord.gz")))
    found = {}
    for raw in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(raw).features.feature
        name, *encoded = (feature[key].bytes_list.value[0] for key in ("image/id", "image/encoded", "mask/encoded"))
        found[name.decode()] = tuple(encoded)
    return found


def judged_masks(annotations: Path) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """File -> class -> mask as COCO's own library draws it; what an annotation says of itself must be so."""
    coco = COCO(str(annotations))
    found = {}
    for image in coco.imgs.values():
        masks: dict[str, NDArray[np.uint8]] = {}
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation)
            box = coco_mask.toBbox(coco.annToRLE(annotation)).tolist()
            assert (annotation["area"], annotation["bbox"]) == (mask.sum(), box)
            name = coco.cats[annotation["category_id"]]["name"]
            masks[name] = masks.get(name, np.zeros_like(mask)) | mask
        found[image["file_name"]] = masks
    return found


def test_from_coco_to_records_to_predictions_to_coco_and_back(
    served: Any, config: Path, tmp_path: Path, capfd: Any
) -> None:
    """Images that show their classes' colours, which the model reads: nothing may be lost on the way around."""
    shown = [(f"steel-{i:03d}", generate_surface(5, i, 48)[1]) for i in range(24)]
    surfaces = {stem: (layout_sources.COLORS[class_ids], class_ids) for stem, class_ids in shown if class_ids.any()}
    source, photos, out = tmp_path / "source", tmp_path / "photos", tmp_path / "out"
    layout_sources.coco(layout_sources.as_packed)(source, surfaces)
    assert exit_code("ingest", source, tmp_path / "records", "--config", config) == 0
    records = images_and_masks(tmp_path / "records")
    assert len(records) == len(surfaces)
    photos.mkdir()
    for name, (image, _) in records.items():
        (photos / f"{name}.png").write_bytes(image)
    assert exit_code("predict", *served, photos, "--out", out, "--format", "coco") == 0
    given, predicted = (judged_masks(f) for f in (source / "annotations/instances_default.json", out / COCO_FILE))
    assert {name: sorted(masks) for name, masks in given.items()} == {n: sorted(m) for n, m in predicted.items()}
    for name, masks in given.items():
        for class_name, mask in masks.items():
            np.testing.assert_array_equal(predicted[name][class_name], mask)
    (out / COCO_FILE).rename(photos / COCO_FILE)
    assert exit_code("ingest", photos, tmp_path / "again", "--config", config) == 0
    assert images_and_masks(tmp_path / "again") == records


def test_a_url_needs_the_config_and_it_must_be_the_models(
    server: Server, photos: Path, tmp_path: Path, config: Path, capfd: Any
) -> None:
    url = f"grpc://127.0.0.1:{server.grpc_port}"
    assert exit_code("predict", url, photos, "--out", tmp_path / "out") == 1
    assert "a server tells no colours; add --config" in capfd.readouterr().err
    text = config.read_text()
    config.write_text(text[: text.index('[[classes]]\nname = "scratches"')] + text[text.index("[image]") :])
    assert exit_code("predict", url, photos, "--out", tmp_path / "out", "--config", config) == 1
    assert "the model has 4 classes, the config 3" in capfd.readouterr().err


def test_a_server_of_other_classes_and_a_folder_of_others_are_refused(
    server: Server, color_export: Path, photos: Path, config: Path, tmp_path: Path, capfd: Any
) -> None:
    """Two names change places: ids would mean the other class."""
    other = config.read_text().replace("inclusion", "x").replace("patches", "inclusion").replace("x", "patches", 1)
    config.write_text(other)
    for target in (f"grpc://127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
        assert exit_code("predict", target, photos, "--out", tmp_path / "out", "--config", config) == 1
        [line] = capfd.readouterr().err.splitlines()
        assert "the model's classes are background, inclusion, patches, scratches; the config's" in line
        assert exit_code("predict", target, photos, "--out", tmp_path / "out", "--config", config, "--tiled") == 1
        assert "the model's classes are background, inclusion, patches, scratches" in capfd.readouterr().err
    assert exit_code("predict", color_export, photos, "--out", tmp_path / "out", "--config", config) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert "its classes are background [0, 0, 0], inclusion [0, 0, 255]" in line and "leave --config out" in line


def test_json_tells_each_images_result(served: Any, photos: Path, tmp_path: Path, capfd: Any) -> None:
    assert exit_code("predict", *served, photos, "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["images"] == 2 and told["failed"] == []
    good = next(result for result in told["results"] if Path(result["image"]).name == "good.png")
    assert Path(good["mask"]).is_file() and Path(good["overlay"]).is_file() and 0.9 < good["confidence"] <= 1
    assert good["classes"]["inclusion"] == {
        "pixels": 156,
        "share": 0.067708,
        "regions": 1,
        "boxes": [[4, 8, 26, 6]],
    }
    assert list(good["classes"]) == ["background", "inclusion", "patches", "scratches"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9", "grpc://nowhere.invalid:8500"])
def test_a_server_that_is_away_is_one_line(url: str, photos: Path, config: Path, tmp_path: Path, capfd: Any) -> None:
    started = time.monotonic()
    assert exit_code("predict", url, photos, "--out", tmp_path / "out", "--config", config) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {url}") and "HTTP 5" not in line
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("grpc://127.0.0.1:{grpc}", ["--model-name", "other"], "NOT_FOUND: Servable not found"),
        ("http://127.0.0.1:{rest}", ["--model-name", "other"], "HTTP 404: Servable not found"),
        ("http://127.0.0.1:{rest}/v2", [], "HTTP 404: Malformed request"),
        ("http://127.0.0.1:{grpc}", [], "a port of gRPC is asked by grpc://"),
        ("grpc://127.0.0.1:{rest}", [], "UNAVAILABLE"),
        ("https://127.0.0.1:{rest}", [], "a port without TLS is asked by http://"),
    ],
    ids=["name", "name-rest", "path", "rest-of-grpc", "grpc-of-rest", "tls"],
)
def test_what_no_image_would_be_answered_for_is_one_line(
    server: Server, url: str, more: list[str], words: str, photos: Path, config: Path, tmp_path: Path, capfd: Any
) -> None:
    url = url.format(grpc=server.grpc_port, rest=server.rest_port)
    assert exit_code("predict", url, photos, "--out", tmp_path / "out", "--config", config, *more) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {url}") and words in line and "no prediction" not in line


def test_docker_mounts_the_folder_of_versions_read_only(color_export: Path, capfd: Any) -> None:
    assert exit_code("serve", color_export.parent, "--docker") == 0
    command = capfd.readouterr().out
    assert f"type=bind,source={color_export.parent},target=/models/flexunet,readonly tensorflow" not in command
    assert f"source={color_export.parent},target=/models/flexunet,readonly" in command
    assert "tensorflow/serving:2.21.0" in command and "--cap-drop=ALL" in command
    assert "--init" in command and "--enable_batching=false" in command


def test_serving_no_model_is_the_users_mistake(tmp_path: Path, capfd: Any) -> None:
    assert exit_code("serve", tmp_path) == 1
    assert "no model here" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "words"),
    [("300.1.1.1", "300.1.1.1: no address, and no name"), ("192.0.2.1", "192.0.2.1: no address of this machine")],
)
def test_a_host_that_nobody_can_listen_on_is_no_taken_port(
    color_export: Path, host: str, words: str, capfd: Any
) -> None:
    """192.0.2.0/24 is of documentation alone (RFC 5737)."""
    assert exit_code("serve", color_export, "--host", host, "--grpc-port", 0, "--rest-port", 0) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {words}") and "expected one, such as 127.0.0.1" in line and "port" not in line


@pytest.mark.parametrize("interface", ["grpc", "rest"])
def test_a_taken_port_is_named_with_its_option(server: Server, color_export: Path, interface: str, capfd: Any) -> None:
    ports = {"grpc": 0, "rest": 0} | {interface: getattr(server, f"{interface}_port")}
    options = [word for name, port in ports.items() for word in (f"--{name}-port", port)]
    assert exit_code("serve", color_export, *options) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: 127.0.0.1:{ports[interface]}: ")
    assert line.endswith(f"expected a free port: choose another with --{interface}-port")


def test_the_first_that_has_no_room_ends_it(served: Any, photos: Path, tmp_path: Path, capfd: Any) -> None:
    with small_disk(tmp_path / "small", 16) as disk:
        fill(disk)
        with (disk / "filler").open("r+b") as filler:
            filler.truncate(4096)
        assert exit_code("predict", *served, photos, "--out", disk / "out") == 1
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: {disk / 'out'}") and "no space left on the disk, expected" in line
        assert not list(disk.rglob("*.incomplete"))
