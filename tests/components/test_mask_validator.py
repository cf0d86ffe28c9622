"""Records that cannot be trusted stop the run, each kind with its own words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import serialized, write_examples
from picture_files import lossless_jpeg
from pictures import encoded
from PIL import Image
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx

from components.mask_validation_artifact import MaskValidation
from components.mask_validator import Executor
from components.record_verdict import expected_counts
from flexunet.core.beam import LOCAL_BEAM_ARGS
from flexunet.core.config.data import TransformConfig
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config

SPLITS = ("train", "eval", "test")
# 4 x 2 pixels: 4 of background, 3 of inclusion, 1 of patches.
MASK = np.zeros((2, 4, 3), np.uint8)
MASK[0, :3] = (0, 0, 255)
MASK[0, 3] = (0, 255, 0)
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def record(image_id: str, **features: Any) -> bytes:
    """`mask=...` replaces a feature, `mask=None` leaves it out, a list holds several values."""
    values = {"image": encoded(IMAGE), "mask": encoded(MASK), "id": image_id.encode(), "group": b"g"} | features
    keys = {"image": "image/encoded", "mask": "mask/encoded", "id": "image/id", "group": "image/group"}
    known = {keys[name]: value for name, value in values.items() if value is not None}
    return serialized({**known, "image/filename": b"extra"})


def write_splits(folder: Path, splits: dict[str, Sequence[bytes]]) -> Any:
    for split, records in splits.items():
        write_examples(folder / f"Split-{split}" / "records-00000-of-00001.gz", records)
    examples = tfx.types.standard_artifacts.Examples()
    examples.uri, examples.split_names = str(folder), json.dumps(list(splits))
    return examples


def write_anomalies(folder: Path, found: anomalies_pb2.Anomalies) -> Any:
    for split in SPLITS:
        (folder / f"Split-{split}").mkdir(parents=True)
        anomalies = found if split == "eval" else anomalies_pb2.Anomalies()
        (folder / f"Split-{split}" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    artifact = tfx.types.standard_artifacts.ExampleAnomalies()
    artifact.uri, artifact.split_names = str(folder), json.dumps(list(SPLITS))
    return artifact


def validate(
    folder: Path,
    config: Config,
    splits: dict[str, Sequence[bytes]],
    expected: dict[str, Any] | None = None,
    anomalies: anomalies_pb2.Anomalies | None = None,
) -> dict[str, Any]:
    validation = MaskValidation()
    validation.uri = str(folder / "validation")
    Executor(Executor.Context(beam_pipeline_args=list(LOCAL_BEAM_ARGS))).Do(
        {
            "examples": [write_splits(folder / "examples", splits)],
            "anomalies": [write_anomalies(folder / "anomalies", anomalies or anomalies_pb2.Anomalies())],
        },
        {"validation": [validation]},
        {
            "config": part_of(config, TransformConfig).model_dump_json(),
            "expected": expected_counts([expected] if expected else None),
            "code": "",
        },
    )
    assert [path.name for path in (folder / "validation").iterdir()] == ["validation.json"]
    return json.loads((folder / "validation" / "validation.json").read_text())


def complaint(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as raised:
        validate(*arguments, **options)
    return str(raised.value)


def good(**replaced: Sequence[bytes]) -> dict[str, Sequence[bytes]]:
    return {split: [record(f"{split}-{i}") for i in range(2)] for split in SPLITS} | replaced


def manifest(**changed: dict[str, Any]) -> dict[str, Any]:
    split = {"images": 2, "groups": 1, "pixels": {"background": 8, "inclusion": 6, "patches": 2, "scratches": 0}}
    return {"span": 1, "splits": {name: split | changed.get(name, {}) for name in SPLITS}}


def test_good_records_are_counted(tmp_path: Path, make_config: Any) -> None:
    found = validate(tmp_path, make_config(), good(test=[record("t")]), manifest(test={"images": 1} | pixels(4, 3, 1)))
    assert {key: found[key] for key in ("format", "classes", "agrees_with_manifest")} == {
        "format": 1,
        "classes": ["background", "inclusion", "patches", "scratches"],
        "agrees_with_manifest": True,
    }
    assert list(found["splits"]) == list(SPLITS)
    assert found["splits"]["train"] == {
        "images": 2,
        "images_with": {"background": 2, "inclusion": 2, "patches": 2, "scratches": 0},
        "pixels": {"background": 8, "inclusion": 6, "patches": 2, "scratches": 0},
        "shares": {"background": 0.5, "inclusion": 0.375, "patches": 0.125, "scratches": 0.0},
        "ignored_pixels": 0,
    }
    assert found["splits"]["test"]["pixels"] == {"background": 4, "inclusion": 3, "patches": 1, "scratches": 0}


def pixels(background: int, inclusion: int, patches: int) -> dict[str, Any]:
    return {"pixels": {"background": background, "inclusion": inclusion, "patches": patches, "scratches": 0}}


def test_records_made_elsewhere_need_no_manifest_and_no_group(tmp_path: Path, make_config: Any) -> None:
    config = make_config(records={"group": "", "ignore_color": [127, 127, 127]})
    mask = MASK.copy()
    mask[1, 0] = 127
    records = [record("a", group=None, mask=encoded(mask), image=encoded(IMAGE, "JPEG"))]
    found = validate(tmp_path, config, good(train=records))
    assert found["agrees_with_manifest"] is None
    assert found["splits"]["train"]["pixels"] == {"background": 3, "inclusion": 3, "patches": 1, "scratches": 0}
    assert found["splits"]["train"]["ignored_pixels"] == 1


def test_an_image_of_a_source_outside_train_is_named(tmp_path: Path, make_config: Any) -> None:
    config = make_config(dataset={"sources": {"rendered": 0.25}})
    words = complaint(
        tmp_path, config, good(train=[record("rendered/1")], eval=[record("span-2/rendered/2"), record("x")])
    )
    assert (
        "span-2/rendered/2 (eval): it is from rendered of dataset.sources; expected such images in train alone" in words
    )
    assert "rendered/1 (train)" not in words


def with_pixel(color: tuple[int, int, int]) -> bytes:
    mask = MASK.copy()
    mask[1, 1] = color
    return encoded(mask)


def transparent(mask: np.ndarray) -> bytes:
    return encoded(np.dstack([mask, np.full(mask.shape[:2], 9, np.uint8)]))


def turned(mask: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(mask, exif=exif)


GIF = encoded(IMAGE[..., 0], "GIF")
BOMB = encoded(np.zeros((3000, 3000), np.uint8))
ALL_PALETTE = "only background 0 0 0, inclusion 0 0 255, patches 0 255 0, scratches 255 0 0"
BAD_RECORDS = {
    "color": (
        {"mask": with_pixel((1, 2, 3))},
        f"1 pixels of the mask are outside the palette, in 1 colours, most RGB 1 2 3; expected {ALL_PALETTE}: "
        "correct the mask or the colours in [[classes]]",
    ),
    "mask-size": ({"mask": encoded(MASK[:, :3])}, "the mask is 3x2 pixels, its image 4x2; expected the same size"),
    "jpeg-mask": ({"mask": encoded(MASK, "JPEG")}, "the mask is a JPEG, which blurs class borders; expected PNG"),
    "gif-image": ({"image": GIF}, "the image is refused (a GIF; expected a PNG, JPEG, BMP or WebP picture: "),
    "gif-mask": ({"mask": GIF}, "the mask is a GIF; expected PNG of 8 bits: export the masks as PNG"),
    "bomb": (
        {"image": BOMB},
        "the image is refused (3000x3000 pixels; expected at most 1,024 pixels (image.max_pixels): scale it down",
    ),
    # Its pixel data are gone: only the header was read.
    "half-bomb": ({"image": BOMB[:99]}, "the image is refused (3000x3000 pixels"),
    "truncated": (
        {"image": encoded(IMAGE, "JPEG")[:-30]},
        "the image: damaged or truncated: it cannot be decoded; expected ",
    ),
    "no-tail": (
        {"mask": encoded(MASK)[:-12]},
        "the mask: damaged or truncated: it cannot be decoded; expected a whole image file: write the records anew",
    ),
    "lossless-jpeg": (
        {"image": lossless_jpeg(IMAGE[..., 0])},
        "the image is refused (a lossless JPEG; expected a PNG, JPEG, BMP or WebP picture: ",
    ),
    "erased": ({"mask": transparent(MASK)}, "the mask is not opaque; expected a mask without alpha"),
    "deep": (
        {"mask": encoded(MASK[..., 2].astype(np.uint16) * 257)},
        "the mask is a grey PNG of 16 bits; expected PNG",
    ),
    "turned": ({"mask": turned(MASK)}, "the mask is to be turned by EXIF; expected an upright mask"),
    "no-mask": (
        {"mask": None},
        "no feature mask/encoded, only image/encoded, image/filename, image/group, image/id; expected one bytes value: "
        "add it to the records, or give its key in [records]",
    ),
    "no-group": ({"group": None}, "no feature image/group, only image/encoded"),
    "two-values": ({"image": [encoded(IMAGE)] * 2}, "feature image/encoded holds 2 values (bytes_list)"),
    "a-number": ({"group": 7}, "feature image/group holds 1 values (int64_list); expected one bytes value"),
}


@pytest.fixture(scope="module")
def complaint_of_all(tmp_path_factory: pytest.TempPathFactory, make_config: Any) -> str:
    """Of one run over every kind of bad record, each beside good ones."""
    bad = [record(f"wrong/{kind}", **features) for kind, (features, _) in BAD_RECORDS.items()]
    splits = good(test=[record("test-0"), *bad, b"no example", record("x", id=None)])
    return complaint(tmp_path_factory.mktemp("bad"), make_config(image={"max_pixels": 32 * 32}), splits, manifest())


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_bad_record_is_named(complaint_of_all: str, kind: str) -> None:
    [line] = [line for line in complaint_of_all.splitlines() if line.startswith(f"wrong/{kind} (test): ")]
    assert line.partition(": ")[2].startswith(BAD_RECORDS[kind][1])


def test_a_record_without_id_or_form(complaint_of_all: str) -> None:
    assert "record without id (test): not a tf.train.Example; expected one in each record" in complaint_of_all
    assert "record without id (test): no feature image/id, only" in complaint_of_all


def test_bad_records_are_counted_and_are_no_difference_from_the_manifest(complaint_of_all: str) -> None:
    lines = complaint_of_all.splitlines()
    assert lines[0] == f"{len(BAD_RECORDS) + 2} problems in the records"
    assert len(lines) == len(BAD_RECORDS) + 4
    assert lines[-1] == f"{lines[0]}, the first: {lines[1]}"


def test_one_problem_is_its_own_summary(tmp_path: Path, make_config: Any) -> None:
    lines = complaint(tmp_path, make_config(), good(test=[record("a", mask=None)])).splitlines()
    assert lines[0] == "1 problem in the records"
    assert lines[2:] == [f"1 problem in the records: {lines[1]}"]


def test_ids_that_are_no_text_fit_on_a_line(tmp_path: Path, make_config: Any) -> None:
    config = make_config(records={"id": "image/encoded"})
    images = [encoded(np.roll(IMAGE, shift)) for shift in range(3)]
    splits = {split: [record("", image=image)] for split, image in zip(SPLITS, images, strict=True)}
    validate(tmp_path / "good", config, splits)
    lines = complaint(tmp_path / "repeated", config, good()).splitlines()
    assert "the same id in several splits" in lines[1]
    assert all(len(line) < 500 for line in lines)


def test_the_same_id_in_two_splits(tmp_path: Path, make_config: Any) -> None:
    splits = good(train=[record("both"), record("once"), record("once")], test=[record("both")])
    lines = complaint(tmp_path, make_config(), splits).splitlines()
    assert lines[:2] == [
        "1 problem in the records",
        "both (train, test): the same id in several splits; expected each id in one: ingest again",
    ]


def test_an_empty_split(tmp_path: Path, make_config: Any) -> None:
    message = complaint(tmp_path, make_config(), good(eval=[]), manifest())
    assert message.splitlines()[1:2] == [
        "split eval: no records; expected at least one: add images and ingest again",
    ]


def test_records_that_are_not_the_manifests(tmp_path: Path, make_config: Any) -> None:
    expected = manifest(eval={"images": 3}, test=pixels(8, 5, 3))
    lines = complaint(tmp_path, make_config(), good(), expected).splitlines()
    assert lines[:3] == [
        "2 problems in the records",
        "split eval: 2 images; expected 3 images as in dataset.json: ingest again",
        "split test: 6 pixels of inclusion, 2 pixels of patches; expected 5 pixels of inclusion, 3 pixels of patches "
        "as in dataset.json: ingest again",
    ]


def test_a_class_that_only_the_manifest_knows(tmp_path: Path, make_config: Any) -> None:
    expected = manifest()
    expected["splits"]["train"]["pixels"] |= {"crack": 9}
    message = complaint(tmp_path, make_config(), good(), expected)
    assert "split train: 0 pixels of crack; expected 9 pixels of crack as in dataset.json" in message


def test_example_validators_errors_stop_the_run(tmp_path: Path, make_config: Any) -> None:
    anomalies = anomalies_pb2.Anomalies()
    dropped = anomalies.anomaly_info["image/group"]
    dropped.severity, dropped.description = dropped.ERROR, "Column is completely\nmissing"
    dropped.reason.add(type=dropped.SCHEMA_MISSING_COLUMN)
    warned = anomalies.anomaly_info["image/id"]
    warned.severity, warned.description = warned.WARNING, "unimportant"
    # Records carry more than the schema has: file names, and columns for slices.
    extra = anomalies.anomaly_info["image/filename"]
    extra.severity, extra.description = extra.ERROR, "New column (column in data but not in schema)"
    extra.reason.add(type=extra.SCHEMA_NEW_COLUMN)
    anomalies.dataset_anomaly_info.severity = extra.ERROR
    anomalies.dataset_anomaly_info.description = "too few examples"
    lines = complaint(tmp_path, make_config(), good(), anomalies=anomalies).splitlines()
    assert lines[:3] == [
        "2 problems in the records",
        "feature image/group (eval): ExampleValidator found: Column is completely missing; expected no anomaly: "
        "correct the records, or the keys in [records]",
        "all features (eval): ExampleValidator found: too few examples; expected no anomaly: "
        "correct the records, or the keys in [records]",
    ]


def test_many_problems_are_counted_and_the_first_listed_by_id(tmp_path: Path, make_config: Any) -> None:
    records = [record(f"{i:03d}", mask=with_pixel((9, 9, 9))) for i in reversed(range(50))]
    lines = complaint(tmp_path, make_config(), good(train=records, test=[])).splitlines()
    assert lines[0] == "51 problems in the records"
    assert [line[:11] for line in lines[1:21]] == [f"{i:03d} (train)" for i in range(20)]
    assert lines[21].startswith("split test: no records")
    assert lines[22].startswith("and 30 more; of all, 50 expected only background ")
    assert lines[22].endswith("; 1 expected at least one")
    assert lines[23] == f"51 problems in the records, the first: {lines[1]}"
    assert len(lines) == 24


def test_expected_counts_hold_only_what_is_compared() -> None:
    span = {"span": 1, "fingerprint": "x", "splits": {"train": {"images": 1, "groups": 1, "pixels": {"a": 2}}}}
    assert json.loads(expected_counts([span])) == {"train": {"images": 1, "pixels": {"a": 2}}}
    two = json.loads(expected_counts([span, span]))
    assert two == {"train": {"images": 2, "pixels": {"a": 4}}}
    assert expected_counts(None) == "null"
