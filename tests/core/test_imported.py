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
        ("[model]\nimage_width = 64\nimage_width = 65\n", "line 3: image_width in [model] is there a second time"),
        (SMALL + "[train]\nepochs = 1\n[train]\n", "[train] is there a second time"),
        (
            SMALL.replace("model", "Model"),
            "no section [model], expected one, all names in small letters; found [Model]",
        ),
        ("[model]\nnum_layers = 3\n", "model.image_width is missing"),
        ("\0\1", "no text, expected INI"),
        (SMALL + "learning_rate = 1e999\n", "model.learning_rate is 'inf', expected a number"),
        (SMALL + f"dropout_rate = 1{'0' * 400}\n", "expected a number"),
        (SMALL + "generator = True\n[augmentor]\nangles = [[90]]\n", "expected a list of numbers"),
        (SMALL + "generator = True\n[augmentor]\ndeformation = True\n[deformation]\nsigmoids = [0]\n", "above 0"),
        (SMALL + "base_kernels = None\n", "model.base_kernels is 'None', expected two equal whole numbers"),
        (SMALL + "image_channels = 1\n", "images are RGB here"),
        (SMALL + "num_layers = " + "(" * 5000 + "\n", "num_layers in [model] is there a second time"),
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


TAIL = "[mask]\nrgb_map = {(0,0,0):0, (255,0,0):1, (0,255,0):2, (0,0,255):3}\n"


@pytest.mark.parametrize(
    "palette",
    [
        '"{(0,0,0):0, (255,0,0):1, (0,255,0):2, (0,0,255):3}"',
        '{"black":0, "red":1, "green":2, "blue":3}',
        '{"#000000":0, "#FF0000":1, "#00ff00":2, "#0000ff":3}',
        "[[(0,0,0),0], [[255,0,0],1], ((0,255,0),2), ((0,0,255),3)]",
        "{(0,0,0):0, (255,0,0):1,\n  (0,255,0):2, ; green\n  (0,0,255):3} # last",
    ],
)
def test_a_palette_is_what_its_author_meant(tmp_path: Path, palette: str):
    """In quotes, of words, of `#rrggbb`, as pairs, over several lines."""
    config, notes = read(tmp_path, f"{SMALL}[mask]\nrgb_map = {palette}\n")
    assert [c.color for c in config.classes] == [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert any("rgb_map" in note for note in notes) == (not palette.startswith("{("))


@pytest.mark.parametrize(
    ("comments", "names"),
    [
        ("; background:black, No 1 (rust): red\n; crack:(0,255,0), dent = #0000ff", ["No 1 (rust)", "crack", "dent"]),
        ("# rgb color map dict for 1+3 classes\n;rust:red, crack:green", ["rust", "crack", "class3"]),
        ("; rust:red, rust:green", ["class1", "class2", "class3"]),
    ],
)  # fmt: skip
def test_names_come_from_the_comments_above_the_palette(tmp_path: Path, comments: str, names: list[str]):
    config, _ = read(tmp_path, SMALL + TAIL.replace("rgb_map", f"{comments}\nrgb_map"))
    assert [c.name for c in config.classes][1:] == names


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_files_of_editors_on_windows_are_read(tmp_path: Path, encoding: str):
    file = tmp_path / "x.config"
    file.write_bytes(("; Größe\r\n" + (SMALL + TAIL).replace("\n", "\r\n").replace(" = ", "\t=\t")).encode(encoding))
    assert "height = 64" in import_config(file).toml


def test_paths_of_windows_and_older_keys_make_the_same_command(tmp_path: Path):
    r"""`..\test` is no literal: it would hold a tab."""
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "x.config"
    older = r'image_datapath = "..\\data\\train\\images\\"' + "\n" + r"mask_datapath = '..\data\train\masks'"
    infer = r"[infer]" + "\n" + r'images_dir = "..\test images"'
    file.write_text(f'{SMALL}[train]\n{older}\n[eval]\nimage_datapath = "../data/valid/images"\n{infer}\n')
    ingest, predict = import_config(file).commands
    assert ingest == f"flexunet ingest {tmp_path}/data records --config CONFIG --check"
    assert predict == f"flexunet predict runs/imported/serving_model '{tmp_path}/test images' --out predictions"
    file.write_text(SMALL + r"[train]" + "\n" + r'images_dir = "C:\data\train\a"' + "\n" + r'masks_dir = r"C:\data\b"')
    assert import_config(file).commands == ("flexunet ingest C:/data records --config CONFIG --check",)


def test_strengths_beyond_ours_are_the_largest_and_said(tmp_path: Path):
    text = "[augmentor]\nshears = [2.0]\nsharpening = True\nbrightening = True\n"
    text += "[sharpening]\nk = 9\n[brightening]\nbeta = -300\n"
    config, notes = read(tmp_path, SMALL + "generator = True\n[train]\nnum_infer_images = 1000\n" + text)
    assert (config.augment.shear, config.augment.sharpen, config.augment.brighten) == (44.99, 4, 255)
    assert config.train.preview_images == 64
    assert sum("beyond what is possible" in note for note in notes) == 4


def test_tiled_previews_are_approximate_and_said(tmp_path: Path):
    text = "[train]\nepoch_change_infer = False\nepoch_change_tiled_infer = True\nnum_infer_images = 3\n"
    config, notes = read(tmp_path, SMALL + text)
    assert config.train.preview_images == 3 and any('image.fit = "tile"' in note for note in notes)


def test_what_is_nothing_is_no_difference_and_none_clips_nothing(tmp_path: Path):
    text = SMALL + "clipvalue = None\n[image]\ncolor_converter = None\ngamma = 0\n[segmentation2]\nblack =\n"
    config, notes = read(tmp_path, text + "[generator]\naugmentation = True\n[mask]\nblur = False\nblur_size = (3,3)\n")
    assert config.train.clipvalue is None
    assert not [note for note in notes if "no counterpart" in note or "clipvalue" in note]
