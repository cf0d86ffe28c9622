"""FlexUNet's own configurations: what each key becomes, what is said, what is refused."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from flexunet.cli.main import cli
from flexunet.core.config.imported import import_config
from flexunet.core.config.load import ConfigError, load_config
from flexunet.core.config.whole import Config

STEEL = """
; the values of a steel experiment
[model]
model          = "TensorFlowFlexUNet"
image_width    = 256 ; pixels
image_height   = 256
num_classes    = 4
base_filters   = 16
base_kernels   = (9,9)
num_layers     = 8
dropout_rate   = 0.03
dilation       = (1,1)
learning_rate  = 0.00006
clipvalue      = 0.5
[train]
epochs         = 100
batch_size     = 2
patience       = 10
learning_rate_reducer = True
reducer_patience = 4
images_dir     = "../data/train/images"
masks_dir      = "../data/train/masks"
[valid]
images_dir     = "../data/valid/images"
[infer]
images_dir     = "photos"
[mask]
;Patches:blue, Inclusion:green, Scratches:red
rgb_map = {(0,0,0):0, (0,0,255):1, (0,255,0):2, (255,0,0):3,]
"""
RAW = """
[model]
image_width = 512
image_height = 512
input_normalize = False
normalization = True
num_classes = 3
base_kernels = (11,11)
num_layers = 8
dilation = (3,3)
dropout_rate = 0.05
optimizer = "AdamW"
dropout_seed_fixing = True
activation = mish
[train]
patience = 0
learning_rate_reducer = False
epoch_change_infer = False
[mask]
rgb_map = {(0,0,0):0, (255,255,0):1, (0,255,255):2}
[tiledinfer]
split_size = 512
"""
SMALL = "[model]\nimage_width = 64\nimage_height = 64\nnum_layers = 3\nnum_classes = 4\n"


def read(tmp_path: Path, text: str, **options: object) -> tuple[Config, tuple[str, ...]]:
    file = tmp_path / "train_eval_infer.config"
    file.write_text(text)
    found = import_config(file, **options)  # pyright: ignore[reportArgumentType]
    (tmp_path / "c.toml").write_text(found.toml)
    return load_config(tmp_path / "c.toml"), found.notes


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    return str(raised.value).splitlines()


def test_the_steel_experiment_as_its_code_ran(tmp_path: Path):
    config, notes = read(tmp_path, STEEL)
    assert [(c.name, c.color) for c in config.classes] == [
        ("background", (0, 0, 0)),
        ("Patches", (0, 0, 255)),
        ("Inclusion", (0, 255, 0)),
        ("Scratches", (255, 0, 0)),
    ]
    assert (config.model.base_kernel, config.model.num_layers, config.model.dilation) == (9, 8, 1)
    train = config.train
    assert (train.schedule, train.plateau_patience, train.plateau_factor, train.monitor) == ("plateau", 10, 0.4, "loss")
    assert (train.learning_rate, train.clipvalue, train.batch_size, train.preview_images) == (6e-5, 0.5, 2, 6)
    assert not config.augment.horizontal_flip and config.model.input_scale == 1 / 255
    assert any("the file says 4" in note for note in notes) and any("does not parse" in note for note in notes)
    assert "patience = 10 # the file says 4" in (tmp_path / "c.toml").read_text()


def test_the_steel_experiment_as_its_file_says(tmp_path: Path):
    config, notes = read(tmp_path, STEEL, as_written=True)
    assert config.train.plateau_patience == 4 and not any("the file says" in note for note in notes)


def test_the_preset_is_what_the_import_gives(tmp_path: Path):
    config, preset = read(tmp_path, STEEL)[0], load_config("synthetic-neu-seg")
    assert (config.model, config.classes, config.image) == (preset.model, preset.classes, preset.image)
    # What neither the file nor the preset sets is the same default.
    assert config.train == preset.train


def test_raw_input_dilation_and_absent_keys(tmp_path: Path):
    config, notes = read(tmp_path, RAW)
    model, train = config.model, config.train
    assert (model.input_scale, model.dilation, model.normalization, model.dropout_seed) == (1.0, 3, "batch", 137)
    assert (model.activation, model.base_kernel) == ("mish", 11)
    assert (train.optimizer, train.weight_decay, train.clipvalue) == ("adamw", 0.004, 0.2)
    assert (train.schedule, train.early_stopping_patience, train.preview_images) == ("constant", train.epochs, 0)
    assert [c.name for c in config.classes] == ["background", "class1", "class2"]
    assert any("predict --tiled" in note for note in notes) and any("class1, class2" in note for note in notes)


def test_names_can_be_given(tmp_path: Path):
    config, notes = read(tmp_path, RAW, names=("ground", "rust", "crack"))
    assert [c.name for c in config.classes] == ["ground", "rust", "crack"]
    assert not any(note.startswith("classes") for note in notes)


def test_augmentation_with_its_defaults(tmp_path: Path):
    config, _ = read(tmp_path, SMALL + "generator = True\n[augmentor]\nangles = [30, 210, 330]\nshears = [0.1]\n")
    augment = config.augment
    assert augment.horizontal_flip and augment.vertical_flip
    assert augment.rotations == (30, -150, -30) and augment.shrink == 0.2 and augment.shear == 5.7
    # Five variants of three kinds.
    assert augment.probability == round(5 / 6 / 3, 3)


def test_augmentation_is_off_without_a_generator(tmp_path: Path):
    config, notes = read(tmp_path, SMALL + "[augmentor]\ndeformation = True\n[deformation]\nalpah = 1300\n")
    assert config.augment == Config(classes=config.classes).augment
    assert not any("augment" in note or "deformation" in note for note in notes)


def test_elastic_deformation_in_shares_of_the_size(tmp_path: Path):
    text = SMALL.replace("64", "256") + "generator = True\n[augmentor]\ndeformation = True\n"
    assert read(tmp_path, text)[0].augment.elastic == pytest.approx(0.103, abs=0.001)


def test_one_class_is_a_sigmoid_over_two(tmp_path: Path):
    text = SMALL.replace("num_classes = 4", "num_classes = 1")
    config, notes = read(tmp_path, text)
    assert config.model.head == "sigmoid" and [c.color for c in config.classes] == [(0, 0, 0), (255, 255, 255)]
    assert config.records.grey_threshold == 128 and any("grey levels as they are" in note for note in notes)
    config, notes = read(tmp_path, text + "[mask]\nbinarize = True\nthreshold = 60\nblur = True\n")
    assert config.records.grey_threshold == 60 and config.records.mask_colors == "exact"
    assert [note for note in notes if "mask" in note or "records" in note] == ["mask.blur: masks are not blurred here"]


def test_colors_are_the_nearest_as_in_the_original_but_of_arrays(tmp_path: Path):
    assert read(tmp_path, STEEL)[0].records.mask_colors == "nearest"
    assert read(tmp_path, SMALL + '[mask]\nmask_file_format = ".png"\n')[0].records.mask_colors == "nearest"
    config, notes = read(tmp_path, SMALL + '[mask]\nmask_file_format = ".npz"\n')
    assert config.records.mask_colors == "exact" and any("--layout npz" in note for note in notes)


def test_what_has_no_counterpart_is_said(tmp_path: Path):
    _, notes = read(tmp_path, SMALL + "patch_size = 4\n[infer3d]\nvideo_fps = 10\n")
    assert "model.patch_size: no counterpart, left out" in notes and "infer3d: no counterpart, left out" in notes


def test_other_networks_code_and_unequal_kernels_are_refused_together(tmp_path: Path):
    marker = tmp_path / "ran"
    text = (
        f'[model]\nmodel = "TensorFlowSwinUNet"\nimage_width = __import__("pathlib").Path({str(marker)!r}).touch()\n'
        "image_height = 512\nbase_kernels = (7,5)\nnum_classes = 3\n"
        "[mask]\nrgb_map = {(0,0,0):0, (255,255,0):1, (0,255,255):2}\n"
    )
    lines = problems(tmp_path, text)
    assert len(lines) == 3 and not marker.exists()
    assert "TensorFlowSwinUNet, expected TensorFlowFlexUNet" in lines[0]
    assert "nothing in the file is run" in lines[1] and "(7, 5), expected two equal" in lines[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no section", "not a FlexUNet configuration"),
        ("[model]\nimage_width = 64\nimage_width = 65\n", "not a FlexUNet configuration"),
        (SMALL + "image_channels = 1\n", "images are RGB here"),
        (SMALL + "num_layers = " + "(" * 5000 + "\n", "not a FlexUNet configuration"),
        (SMALL + "dropout_rate = " + "(" * 5000 + "\n", "expected a number"),
        (SMALL + "normalization = 1\n", "expected True or False"),
        (SMALL + "base_filters = True\n", "expected a whole number"),
        (SMALL + 'loss = "iou_loss"\n', "others have no counterpart"),
        (SMALL + "[mask]\nrgb_map = {(0,0,0):0, (300,0,0):1}\n", "colours and ids"),
        (SMALL + "[mask]\nrgb_map = {(0,0,0):0, (3,0,0):2}\n", "0, 1, 2, ... each once"),
        (SMALL + "[mask]\nrgb_map = {(0,0,0):0, (3,0,0):1}\n", "one for each"),
        (SMALL.replace("64", "65"), "expected a multiple of 4"),
    ],
)
def test_what_cannot_be_taken_over_is_one_line(tmp_path: Path, text: str, words: str):
    lines = problems(tmp_path, text)
    assert any(words in line for line in lines) and all(len(line) < 400 for line in lines), lines


def test_the_command_writes_the_file_and_names_the_next_ones(tmp_path: Path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "x.config").write_text(STEEL)
    out = tmp_path / "mine.toml"
    arguments = ["import", "config", str(tmp_path / "project" / "x.config"), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and load_config(out).train.epochs == 100
    again = CliRunner().invoke(cli, arguments)
    assert again.exception is not None and "is there already" in str(again.exception)


def test_the_commands_are_of_the_files_own_folders(tmp_path: Path):
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "x.config"
    file.write_text(STEEL)
    ingest, predict = import_config(file).commands
    assert ingest == f"flexunet ingest {tmp_path}/data records --config CONFIG --check"
    assert predict == f"flexunet predict runs/imported/serving_model {tmp_path}/project/photos --out predictions"
