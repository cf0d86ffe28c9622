"""The configuration refuses every mistake in one line, evaluates nothing and falls back to nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flexunet.core.config.data import TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.load import ConfigError, config_from, load_config, preset_names
from flexunet.core.config.section import part_of
from flexunet.core.config.train import AugmentConfig, TrainerConfig
from flexunet.core.config.whole import Config

CLASSES = [
    {"name": "background", "color": [0, 0, 0]},
    {"name": "rust", "color": [0, 0, 255]},
    {"name": "deep crack", "color": [255, 0, 0]},
]
TWO_CLASSES = CLASSES[:2]
TOML = """\
[[classes]]
name = "background"
color = [0, 0, 0]

[[classes]]
name = "rust"
color = [0, 0, 255]

[train]
epochs = 3
"""


def make(sections: dict[str, Any]) -> Config:
    return config_from({"classes": CLASSES, **sections}, "mine.toml")


def error_lines(sections: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(sections)
    return str(caught.value).splitlines()


@pytest.fixture
def toml_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return path


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            {"train": {"loss": ["fokal", "focal"]}},
            "tune.space.train.loss: 'fokal': Input should be 'cross_entropy', .*",
        ),
        (
            {"train": {"loss": ["focal"]}},
            r"tune.space.train.loss.list: got \['focal'\], expected to have at least 2 .*",
        ),
        ({"train": {"learning_rate": {"low": 1, "high": 0}}}, ".* low is 1 and high 0, expected low below high"),
        (
            {"train": {"learning_rate": {"low": 0, "high": 1, "log": True}}},
            ".* low is 0 with log = true, expected more .*",
        ),
        ({"train": {"rate": [1, 2]}}, "tune.space.train names 'rate', expected one of epochs, batch_size, .*"),
        ({"trian": {"rate": [1, 2]}}, r"unknown key tune.space.trian; did you mean train\?"),
        ({"train": {"epochs": [1, 2]}}, "tune.space names train.epochs, expected none of .*: set tune.trial_seconds"),
        (
            {"model": {"num_layers": [5, 10]}},
            "tune.space.model.num_layers: 10: image.height is 256, expected a multiple.*",
        ),
        ({"model": {"num_layers": {"low": 2.5, "high": 4}}}, "tune.space.model.num_layers: 2.5: .* valid integer"),
        (
            {"train": {"encoder_weights": ["a.h5", "b.h5"]}},
            "tune.space names train.encoder_weights, expected one file .*",
        ),
        ({"train": {"class_weights": [1, 2]}}, "tune.space.train.class_weights: 1: .*"),
        # Both ends are values of the key, what is between is none.
        (
            {"model": {"stem_stride": {"low": 1, "high": 4}}},
            "tune.space.model.stem_stride is a range of numbers, which the key does not take: list the values to try",
        ),
        ({"augment": {"symmetries": {"low": 0, "high": 1}}}, ".* list the values to try"),
    ],
)
def test_a_space_holds_only_values_that_a_config_could_have(space: dict[str, Any], line: str) -> None:
    [first, *_] = error_lines({"tune": {"space": space}})
    assert re.fullmatch(f"mine.toml: {line}", first)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"image": {"height": 130}}, ["image.height is 130", "multiple of 16", "such as 128"]),
        ({"image": {"width": 8}}, ["image.width is 8", "multiple of 16", "such as 16"]),
        (
            {"image": {"width": 144}, "model": {"stem_stride": 2}},
            ["image.width is 144", "multiple of 32 (model.stem_stride * 2**(model.num_layers - 1))", "such as 128"],
        ),
        (
            {"image": {"width": 512}, "model": {"num_layers": 10}},
            ["image.height is 256", "multiple of 512", "such as 512"],
        ),
        (
            {"image": {"width": 144}, "model": {"encoder": "efficientnetv2-b0"}},
            ["image.width is 144", "multiple of 32 (model.encoder = 'efficientnetv2-b0')", "such as 128"],
        ),
        (
            {"model": {"encoder": "efficientnetv2-b0", "stem_stride": 2}},
            ["model.stem_stride is 2 with model.encoder = 'efficientnetv2-b0'", "no such key"],
        ),
        ({"train": {"encoder_weights": "a.h5"}}, ["train.encoder_weights with model.encoder = 'flexunet'"]),
        (
            {"model": {"encoder": "efficientnetv2-b0"}, "train": {"freeze_encoder": True}},
            ["train.freeze_encoder without train.encoder_weights", "would be random"],
        ),
        ({"classes": [CLASSES[0], CLASSES[1], {"name": "rust", "color": [9, 9, 9]}]}, ["classes", "name 'rust'"]),
        ({"classes": [CLASSES[0], {"name": "rust", "color": [0, 0, 0]}]}, ["classes", "color (0, 0, 0)"]),
        ({"model": {"head": "sigmoid"}}, ["model.head is 'sigmoid' with 3 classes", "exactly 2"]),
        ({"train": {"weight_decay": 0.1}}, ["train.weight_decay is 0.1", "'adam'", "use optimizer = 'adamw'"]),
        (
            {"train": {"class_weights": {"dent": 2.0}}},
            ["train.class_weights", "'dent'", "background, rust, deep crack"],
        ),
        (
            {"image": {"height": 16, "width": 16}, "train": {"hardest_pixels": 0.003}},
            ["train.hardest_pixels is 0.003 of 256 pixels", "at least one, 0.00391"],
        ),
        ({"train": {"hardest_pixels": 0}}, ["train.hardest_pixels: got 0", "greater than 0"]),
        ({"augment": {"rotations": [10.0, 200.0]}}, ["augment.rotations.1: got 200.0", "less than or equal to 180"]),
        ({"augment": {"crops": True}}, ["augment.crops with image.fit = 'stretch'", "expected 'tile'", "augment.zoom"]),
        ({"augment": {"shrink": 1.0}}, ["augment.shrink: got 1.0", "less than 1"]),
        ({"records": {"ignore_color": [0, 0, 255]}}, ["records.ignore_color [0, 0, 255]", "'rust'"]),
        ({"dataset": {"train": 0.8, "eval": 0.15, "test": 0.15}}, ["dataset", "is 1.1", "expected 1"]),
        ({"dataset": {"train": 0.7}}, ["dataset", "is 0.9", "expected 1"]),
        ({"dataset": {"sources": {"a": 0.5, "b": 0.5}}}, ["dataset.sources", "add up to 1", "less than 1"]),
        ({"dataset": {"sources": {"a/": 0.5}}}, ["dataset.sources", "'a/'", "without / around it"]),
        ({"dataset": {"sources": {"a": -0.1}}}, ["dataset.sources.a: got -0.1", "greater than or equal to 0"]),
        (
            {"dataset": {"equal_groups": True}, "records": {"group": ""}},
            ['dataset.equal_groups with records.group = "", expected the key of the groups'],
        ),
        (
            {"dataset": {"sources": {"a": 0.4}}, "train": {"defect_share": 0.7}},
            ["dataset.sources and train.defect_share add up to more than 1"],
        ),
        (
            {"dataset": {"sources": {"a": 0.05}}, "train": {"batch_size": 4}},
            ["dataset.sources.a is 0.05, and 1 of a batch of 4 would be 0.25", "train.batch_size = 14 or more"],
        ),
        (
            {"train": {"defect_share": 0.33, "batch_size": 1}},
            [
                "train.defect_share is 0.33, less than half an image in a batch of 1",
                "one of 1 would be 1",
                "size = 2 or",
            ],
        ),
        ({"tune": {"seconds": 60, "trial_seconds": 600}}, ["tune: trial_seconds is 600", "at most `seconds`, 60"]),
        (
            {
                "train": {"warm_start": True},
                "tune": {"space": {"model": {"base_filters": [8, 16], "dropout": [0.0, 0.1]}}},
            },
            ["tune.space names model.base_filters with train.warm_start", "set train.warm_start = false"],
        ),
        (
            {"dataset": {"sources": {"a": 0.4, "b": 0.4}}, "train": {"batch_size": 2}},
            ["a batch is 2 images, 1 of a, 1 of b by dataset.sources", "raise train.batch_size"],
        ),
        ({"image": {"fit": "tile", "tile_overlap": 129}}, ["image", "tile_overlap is 129", "half", "(128)"]),
        ({"image": {"fit": "tile", "width": 32, "tile_overlap": 17}}, ["image", "tile_overlap is 17", "(16)"]),
        (
            {"image": {"height": 64, "width": 64, "max_pixels": 4095}},
            ["image", "max_pixels is 4095", "at least height * width, 4096"],
        ),
        ({"serving": {"image": "registry:5000/serving"}}, ["serving.image: got 'registry:5000/serving'", "NAME:TAG"]),
        ({"serving": {"image": "serving@sha256:ab"}}, ["serving.image: got 'serving@sha256:ab'"]),
        ({"gate": {"min_foreground_dice": 0}}, ["gate.min_foreground_dice: got 0", "greater than 0"]),
        ({"gate": {"min_foreground_dice": 1.01}}, ["gate.min_foreground_dice: got 1.01", "less than or equal to 1"]),
        ({"gate": {"min_class_dice": {"rust": 0.0}}}, ["gate.min_class_dice.rust: got 0.0", "greater than 0"]),
        ({"gate": {"min_class_dice": {"rust": 2}}}, ["gate.min_class_dice.rust: got 2", "less than or equal to 1"]),
        ({"gate": {"min_class_dice": {"dent": 0.5}}}, ["gate.min_class_dice", "'dent'", "rust, deep crack"]),
        ({"gate": {"min_class_dice": {"background": 1}}}, ["gate.min_class_dice", "'background'", "rust, deep crack"]),
        ({"gate": {"allow_unmeasured": ["dent"]}}, ["gate.allow_unmeasured", "'dent'", "rust, deep crack"]),
        ({"gate": {"bound_on": "upper"}}, ["gate.bound_on", "'lower' or 'point'"]),
        ({"gate": {"slice_columns": ["size"]}}, ["gate: ", "slice_columns names 'size'", "expected another"]),
        ({"gate": {"min_slice_dice": {"line=A": 0.5}}}, ["gate: ", "'line=A'", "size=smallest", "defects=..."]),
        ({"gate": {"min_slice_dice": {"size=tiny": 0.5}}}, ["gate: ", "'size=tiny'", "size=largest"]),
        ({"gate": {"min_slice_dice": {"defects=deep crack+rust": 0.5}}}, ["in this order: rust+deep crack"]),
        ({"gate": {"min_slice_dice": {"defects=dent": 0.5}}}, ["gate.min_slice_dice", "'defects=dent'"]),
        ({"gate": {"min_slice_dice": {"defects=none": 0.5}}}, ["gate.min_slice_dice", "expected defect classes"]),
        ({"gate": {"max_regression": -0.01}}, ["gate.max_regression: got -0.01", "greater than or equal to 0"]),
    ],
)
def test_rules_across_fields(sections: dict[str, Any], words: list[str]):
    [line] = error_lines(sections)
    assert line.startswith("mine.toml: ") and "expected" in line
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    "sections",
    [
        {"image": {"height": 144, "width": 16}},
        {"image": {"height": 8, "width": 8}, "model": {"num_layers": 4}},
        {"classes": TWO_CLASSES, "model": {"head": "sigmoid"}},
        {"records": {"ignore_color": [0, 0, 254]}},
        {"dataset": {"train": 0.7, "eval": 0.2, "test": 0.1}},
        {"image": {"fit": "tile", "tile_overlap": 128}},
        {"image": {"height": 64, "width": 64, "max_pixels": 4096}},
        {"serving": {"image": "registry:5000/tensorflow/serving:2.21.0-gpu"}},
        {"image": {"fit": "stretch", "tile_overlap": 200}},
        {"gate": {"min_foreground_dice": 1, "min_class_dice": {"deep crack": 1.0}, "max_regression": 0}},
        {"gate": {"max_false_alarms": 0, "min_defects_found": 1, "resamples": 200, "min_groups": 1}},
        {
            "gate": {
                "slice_columns": ["line"],
                "min_slice_dice": {"line=A": 1.0, "size=small": 1.0},
            }
        },
        {"gate": {"min_slice_dice": {"defects=rust+deep crack": 0.5, "defects=rust": 0.5}}},
        {
            "classes": [CLASSES[0], {"name": "Rost + Zunder", "color": [1, 1, 1]}],
            "gate": {"min_slice_dice": {"defects=Rost %2B Zunder": 0.5}},
        },
        {"train": {"learning_rate": 1}},
    ],
)
def test_bounds_are_inclusive(sections: dict[str, Any]):
    dumped = make(sections).model_dump(mode="json")
    for section, values in sections.items():
        assert values == (dumped[section] if section == "classes" else {key: dumped[section][key] for key in values})


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"trainn": {}}, "trainn", "did you mean train?"),
        ({"zzz": 1}, "zzz", "expected one of classes, records, image, "),
        ({"train": {"epochz": 3}}, "train.epochz", "did you mean epochs?"),
        ({"train": {"zzz": 3}}, "train.zzz", "expected one of epochs, batch_size, optimizer, "),
        ({"image": {"hight": 64}}, "image.hight", "did you mean height?"),
        ({"image": {"zzz": 64}}, "image.zzz", "expected one of height, width, fit, "),
        ({"gate": {"min_class_dise": {}}}, "gate.min_class_dise", "did you mean min_class_dice?"),
        ({"classes": [CLASSES[0], {**CLASSES[1], "kolor": 1}]}, "classes.1.kolor", "did you mean color?"),
        ({"classes": [CLASSES[0], {**CLASSES[1], "zzz": 1}]}, "classes.1.zzz", "expected one of name, color"),
    ],
)
def test_unknown_keys(sections: dict[str, Any], key: str, words: str):
    [line] = error_lines(sections)
    assert line.startswith(f"mine.toml: unknown key {key}; {words}")


@pytest.mark.parametrize(
    ("sections", "key", "got"),
    [
        ({"train": {"epochs": 0}}, "train.epochs", "0"),
        ({"train": {"epochs": 1.5}}, "train.epochs", "1.5"),
        ({"train": {"epochs": "many"}}, "train.epochs", "'many'"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate", "nan"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate", "inf"),
        ({"model": {"activation": "relus"}}, "model.activation", "'relus'"),
        ({"image": {"fit": "crop"}}, "image.fit", "'crop'"),
        ({"train": 3}, "train", "3"),
        ({"records": {"ignore_color": [1, 2, 256]}}, "records.ignore_color.2", "256"),
        ({"records": {"ignore_color": [1, 2, 3, 4]}}, "records.ignore_color", "[1, 2, 3, 4]"),
        ({"operating_point": {"target": "found >= 98"}}, "operating_point.target", "'found >= 98'"),
        ({"operating_point": {"target": "at most 2 stops"}}, "operating_point.target", "'at most 2 stops'"),
        ({"classes": 3}, "classes", "3"),
        ({"classes": []}, "classes", "[]"),
        ({"classes": [CLASSES[0], {"name": "rust\n", "color": [1, 1, 1]}]}, "classes.1.name", r"'rust\n'"),
        ({"classes": [CLASSES[0], {"name": " rust", "color": [1, 1, 1]}]}, "classes.1.name", "' rust'"),
        ({"classes": [CLASSES[0], {"name": "rust", "color": "#0000ff"}]}, "classes.1.color", "'#0000ff'"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_got_and_expected(sections: dict[str, Any], key: str, got: str):
    [line] = error_lines(sections)
    assert line.startswith(f"mine.toml: {key}: got {got}, ") and "expected" in line


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", True),
        ("train", "epochs", "12"),
        ("train", "learning_rate", "1e-3"),
        ("augment", "symmetries", "yes"),
        ("augment", "symmetries", 1),
        ("gate", "min_foreground_dice", True),
    ],
)
def test_values_are_not_converted_from_another_type(section: str, key: str, value: Any):
    [line] = error_lines({section: {key: value}})
    assert line.startswith(f"mine.toml: {section}.{key}: got {value!r}, ")


def test_classes_are_required():
    with pytest.raises(ConfigError) as caught:
        config_from({}, "mine.toml")
    assert str(caught.value) == "mine.toml: classes is missing, expected at least two [[classes]], the background first"


def test_each_mistake_has_a_line(toml_file: Path):
    toml_file.write_text(
        TOML.replace("epochs = 3", "epochz = 3\nbatch_size = 0")
        + "[model]\nactivation = 'relus'\n[gate]\nmin_foreground_dice = 2\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(toml_file)
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[1].split(";")[0] for line in lines) == [
        "gate.min_foreground_dice",
        "model.activation",
        "train.batch_size",
        "unknown key train.epochz",
    ]
    assert all(line.startswith(f"{toml_file}: ") for line in lines)


def test_each_mistake_across_fields_has_a_line():
    lines = error_lines({"image": {"height": 33, "width": 33}, "model": {"head": "sigmoid"}})
    assert [line.removeprefix("mine.toml: ").split(" is ")[0] for line in lines] == [
        "image.height",
        "image.width",
        "model.head",
    ]


@pytest.mark.parametrize(
    ("palette", "line"),
    [
        ("color = [0, 0, 255)", 7),
        ("color = [(0, 0, 255]", 7),
        ("color = (0, 0, 255)", 7),
        ("color = 0, 0, 255]", 7),
        ("color = [0, 0, [255]", 9),
        ("color = __import__('os').getcwd()", 7),
        ("color = tuple([0, 0, 255])", 7),
    ],
)
def test_a_broken_palette_is_an_error_with_file_and_line(toml_file: Path, palette: str, line: int):
    toml_file.write_text(TOML.replace("color = [0, 0, 255]", palette))
    with pytest.raises(ConfigError) as caught:
        load_config(toml_file)
    [message] = str(caught.value).splitlines()
    assert message.startswith(f"{toml_file}: not valid TOML: ") and f"(at line {line}, " in message


def test_text_that_looks_like_code_is_not_evaluated(toml_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toml_file.parent)
    code = "__import__('pathlib').Path('evaluated').touch()"
    toml_file.write_text(TOML.replace("color = [0, 0, 255]", f'color = "{code}"'))
    with pytest.raises(ConfigError, match=r"classes\.1\.color: got .*__import__"):
        load_config(toml_file)
    # A name may be any text, and is nothing else.
    toml_file.write_text(TOML.replace('name = "rust"', f'name = "{code}"'))
    assert load_config(toml_file).classes[1].name == code
    assert [path.name for path in toml_file.parent.iterdir()] == ["mine.toml"]


def test_a_byte_order_mark_is_read(toml_file: Path):
    """Windows' editors write one."""
    toml_file.write_text(TOML, encoding="utf-8-sig")
    assert load_config(toml_file).classes[1].name == "rust"


def test_not_utf8_is_an_error_with_the_file(toml_file: Path):
    toml_file.write_bytes(TOML.encode().replace(b"rust", b"r\xfcst"))
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(toml_file))}: "):
        load_config(toml_file)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.epochs=20", "train", "epochs", 20),
        ("train.epochs = 20", "train", "epochs", 20),
        ("train.learning_rate=6e-5", "train", "learning_rate", 6e-5),
        ("augment.symmetries=true", "augment", "symmetries", True),
        ("image.fit=pad", "image", "fit", "pad"),
        ('image.fit="pad"', "image", "fit", "pad"),
        ("image.fit='pad'", "image", "fit", "pad"),
        ("train.loss=cross_entropy_dice", "train", "loss", "cross_entropy_dice"),
        ("records.ignore_color=[9, 9, 9]", "records", "ignore_color", (9, 9, 9)),
        ("gate.min_class_dice.rust=0.25", "gate", "min_class_dice", {"rust": 0.25}),
        ("gate.min_class_dice={rust=0.25}", "gate", "min_class_dice", {"rust": 0.25}),
    ],
)
def test_overrides(toml_file: Path, override: str, section: str, key: str, value: Any):
    found = getattr(getattr(load_config(toml_file, [override]), section), key)
    assert found == value and type(found) is type(value)


def test_overrides_keep_the_rest_and_the_last_one_wins(toml_file: Path):
    config = load_config(toml_file, ["train.batch_size=4", "train.batch_size=5", "image.height=64"])
    assert (config.train.epochs, config.train.batch_size, config.image.height) == (3, 5, 64)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        (".epochs=3", "expected section.key=value"),
        ("train.=3", "expected section.key=value"),
        ("train.epochs=", "'' is not a TOML value"),
        ("train.epochs=[3", "'[3' is not a TOML value"),
        ("train.epochs=3 4", "'3 4' is not a TOML value"),
        ("train.epochs=__import__('os').getpid()", "is not a TOML value"),
        ("image.fit='pad'\nflips=true", "is not a TOML value"),
        ("train.epochs.x=3", "epochs is not a section"),
        ("classes.1.name=dent", "classes is not a section"),
    ],
)
def test_wrong_overrides(toml_file: Path, override: str, words: str):
    with pytest.raises(ConfigError) as caught:
        load_config(toml_file, [override])
    assert str(caught.value).startswith(f"--set {override}: ") and words in str(caught.value)


def test_an_override_is_checked_like_the_file(toml_file: Path):
    with pytest.raises(ConfigError, match=r"unknown key train\.epochz; did you mean epochs\?"):
        load_config(toml_file, ["train.epochz=3"])


@pytest.mark.parametrize(
    ("section", "key", "value"), [(None, "train", None), ("train", "epochs", 5), ("image", "height", 64)]
)
def test_frozen(section: str | None, key: str, value: Any):
    config = make({})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(getattr(config, section) if section else config, key, value)
    assert config == make({})


@pytest.mark.parametrize("preset", preset_names())
def test_presets_load_and_survive_json(preset: str):
    config = load_config(preset)
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_preset_names():
    assert {"demo", "synthetic-neu-seg"} <= set(preset_names())


def test_json_keeps_every_value():
    config = make(
        {
            "records": {"group": "", "ignore_color": [1, 2, 3]},
            "image": {"fit": "tile", "tile_overlap": 16},
            "train": {"learning_rate": 0.1 + 0.2, "max_seconds": 1e-9},
            "gate": {"min_class_dice": {"deep crack": 1 / 3}},
        }
    )
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.gate.min_class_dice == {"deep crack": 1 / 3} and again.records.ignore_color == (1, 2, 3)


@pytest.mark.parametrize("name", ["nope", "nope.toml", "configs/demo", "", "."])
def test_an_unknown_preset_lists_the_presets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    [line] = str(caught.value).splitlines()
    assert "no such file" in line and ", ".join(preset_names()) in line


def test_the_seed_number_for_number():
    """The settings of the published experiment as it ran, its palette as intended."""
    config = load_config("synthetic-neu-seg")
    assert [(c.name, c.color) for c in config.classes] == [
        ("background", (0, 0, 0)),
        ("Patches", (0, 0, 255)),
        ("Inclusion", (0, 255, 0)),
        ("Scratches", (255, 0, 0)),
    ]
    assert config.dataset.model_dump(include={"train", "eval", "test", "seed"}) == {
        "train": 0.8,
        "eval": 0.15,
        "test": 0.05,
        "seed": 137,
    }
    assert (config.image.height, config.image.width, config.image.fit) == (256, 256, "stretch")
    assert config.model.model_dump() == {
        "encoder": "flexunet",
        "input_scale": 1 / 255,
        "standardize": False,
        "num_layers": 8,
        "base_filters": 16,
        "base_kernel": 9,
        "stem_stride": 1,
        "dilation": 1,
        "dropout": 0.03,
        "dropout_seed": None,
        "normalization": "none",
        "activation": "relu",
        "head": "softmax",
    }
    seed = {
        "epochs": 100,
        "batch_size": 2,
        "learning_rate": 6e-5,
        "clipvalue": 0.5,
        "loss": "cross_entropy",
        "schedule": "plateau",
        "plateau_factor": 0.4,
        "plateau_patience": 10,
        "early_stopping_patience": 10,
        "monitor": "loss",
        "optimizer": "adam",
        "class_weights": {},
        "hardest_pixels": 1,
        "ema_decay": None,
        "warm_start": False,
    }
    assert config.train.model_dump(include=set(seed)) == seed
    assert config.augment == AugmentConfig()


def test_part_of_has_only_the_sections_it_declares():
    config = make({"train": {"epochs": 7}, "gate": {"min_foreground_dice": 0.9}})
    assert list(part_of(config, TransformConfig).model_dump()) == ["classes", "records", "image", "dataset"]
    assert list(part_of(config, TrainerConfig).model_dump()) == [
        "classes",
        "records",
        "image",
        "dataset",
        "model",
        "augment",
        "train",
        "operating_point",
        "serving",
    ]
    # Trainer is not run again for what only the validator reads.
    checked = make({"serving": {"max_latency_seconds": 1.0, "symmetries": 4}})
    assert json.loads(part_of(checked, TrainerConfig).model_dump_json())["serving"] == {"symmetries": 4}
    # Nor for what only ingest reads.
    assert part_of(config, TrainerConfig).model_dump()["dataset"] == {"sources": {}, "equal_groups": False}
    assert list(part_of(config, GateSettings).model_dump()) == ["classes", "gate"]
    assert part_of(config, TrainerConfig).train.epochs == 7
    assert part_of(config, GateSettings).gate.min_foreground_dice == 0.9


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"gate": {"min_foreground_dice": 0.9}}, ["GateSettings"]),
        ({"train": {"epochs": 7}}, ["TrainerConfig"]),
        ({"model": {"dropout": 0.1}}, ["TrainerConfig"]),
        ({"augment": {"zoom": 0.1}}, ["TrainerConfig"]),
        ({"dataset": {"seed": 1}}, []),
        ({"image": {"height": 64}}, ["TransformConfig", "TrainerConfig"]),
        ({"classes": TWO_CLASSES}, ["TransformConfig", "TrainerConfig", "GateSettings"]),
    ],
)
def test_a_change_reaches_only_the_parts_that_read_it(change: dict[str, Any], changed: list[str]):
    before, after = make({}), make(change)
    parts = (TransformConfig, TrainerConfig, GateSettings)
    differ = [p.__name__ for p in parts if part_of(before, p).model_dump_json() != part_of(after, p).model_dump_json()]
    assert differ == changed
