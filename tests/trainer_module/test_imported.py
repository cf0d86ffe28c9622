"""Keras files of the original's layers, written by Keras 2 and 3: the same answers, or a line that says why not."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tf_keras
from numpy.typing import NDArray
from original import mish, original_layers

from flexunet.cli import main
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.errors import UserError
from pipeline.cli.run import check_imported
from trainer_module.imported import import_model

HEIGHT, WIDTH, LEVELS, FILTERS, KERNEL = 32, 16, 3, 4, 5
FACTS = {"num_layers": LEVELS, "base_filters": FILTERS, "base_kernel": KERNEL, "dropout": 0.03}


def config_with(classes: int = 4, image: dict[str, Any] | None = None, **model: Any) -> TrainerConfig:
    values = {
        "classes": [{"name": f"class{i}", "color": [i, 0, 0]} for i in range(classes)],
        "image": {"height": HEIGHT, "width": WIDTH, **(image or {})},
        "model": {**FACTS, **model},
    }
    return part_of(config_from(values, "test"), TrainerConfig)


def original(k: Any, **network: Any) -> Any:
    return original_layers(k, (HEIGHT, WIDTH), LEVELS, FILTERS, KERNEL, **network)


def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (2, HEIGHT, WIDTH, 3)).astype(np.uint8)


# Whose Keras, how it is saved, the network, what the config says of it, words of the notes.
RAW = {"input_scale": 1.0}
DEEP = {"normalization": "batch", "dilation": 3, "activation": "mish", **RAW}
FILES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any], str]] = {
    "Keras 2, HDF5": (tf_keras, "best_model.h5", {}, {}, "a Lambda behind the input, not run"),
    "Keras 2, HDF5, everything on": (
        tf_keras, "best_model.h5", {"lambda_in": False, "batch": True, "dilation": 3, "activation": mish}, DEEP, "",
    ),
    "Keras 2, archive": (tf_keras, "best_model.keras", {"batch": True}, {"normalization": "batch"}, "a Lambda"),
    "Keras 2, weights alone": (tf_keras, "weights", {"batch": True}, {"normalization": "batch"}, "weights alone"),
    "Keras 3, HDF5": (keras, "best_model.h5", {"batch": True}, {"normalization": "batch"}, "a Lambda"),
    "Keras 3, HDF5, a function of its own": (
        keras, "best_model.h5", {"lambda_in": False, "activation": mish}, {"activation": "mish", **RAW},
        "",
    ),
    "Keras 3, archive": (
        keras, "best_model.keras", {"lambda_in": False, "activation": "swish", "batch": True},
        {"activation": "silu", "normalization": "batch", **RAW}, "",
    ),
    "one class": (
        tf_keras, "best_model.h5", {"classes": 1, "lambda_in": False}, {"head": "sigmoid", "classes": 2, **RAW}, "",
    ),
}  # fmt: skip


def save(model: Any, folder: Path, name: str) -> Path:
    if name == "weights":
        model.save_weights(folder / "best_model.h5", save_format="h5")
        return folder / "best_model.h5"
    model.compile("adam", "categorical_crossentropy")
    model.save(folder / name)
    return folder / name


SLOW = ("Keras 2, archive", "Keras 2, weights alone", "Keras 3, HDF5", "Keras 3, HDF5, a function of its own")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in FILES])
def test_the_same_answers_as_in_keras(kind: str, tmp_path: Path) -> None:
    k, name, network, settings, words = FILES[kind]
    model = original(k, **network)
    expected = model.predict(pixels(), verbose=0)
    found = import_model(save(model, tmp_path, name), config_with(**settings))
    if expected.shape[-1] == 1:
        expected = np.concatenate([1 - expected, expected], axis=-1)
    assert expected.std() > 0.01
    # Raw pixels make large logits, and Keras sums mish in another order.
    np.testing.assert_allclose(found.model.predict(pixels(), verbose=0), expected, atol=5e-4)
    assert words in " ".join(found.notes) and bool(words) == bool(found.notes)
    assert found.origin["file"] == f"best_model{Path(name).suffix or '.h5'}"
    assert found.origin["keras"] == k.__version__


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(original(tf_keras), tmp_path_factory.mktemp("plain"), "best_model.h5")


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "kernel": ({"base_kernel": 7}, "arrays of [[5, 5, 3, 4], [4]], expected [[7, 7, 3, 4], [4]] (model.base_kernel)"),
    "filters": ({"base_filters": 8}, "expected [[5, 5, 3, 8], [8]] (model.base_filters, model.num_layers)"),
    "fewer levels": ({"num_layers": 2}, "is a MaxPooling2D, expected a Conv2DTranspose (model.num_layers)"),
    "more levels": ({"num_layers": 4}, "is a Conv2DTranspose, expected a MaxPooling2D (model.num_layers)"),
    "dilation": ({"dilation": 2}, "layer 2, conv2d: has dilation_rate [1, 1], expected [2, 2] (model.dilation)"),
    "stem": ({"stem_stride": 2}, "layer 2, conv2d: has strides [1, 1], expected [2, 2] (model.stem_stride)"),
    "normalization": ({"normalization": "batch"}, "is a Conv2D, expected a BatchNormalization (model.normalization)"),
    "activation": ({"activation": "elu"}, 'has activation "relu", expected "elu" (model.activation)'),
    "classes": ({"classes": 3}, "expected [[1, 1, 4, 3], [3]] ([[classes]], model.head)"),
    "head": ({"classes": 2, "head": "sigmoid"}, 'has activation "softmax", expected "sigmoid" (model.head)'),
    "image": ({"image": {"height": 64}}, "has shape [32, 16, 3], expected [64, 16, 3] (image.height, image.width)"),
    "scale": (RAW, "the Lambda lambda changes pixels before the first convolution, the config does not"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_the_first_difference_is_named(kind: str, plain: Path) -> None:
    settings, words = OTHER[kind]
    with pytest.raises(UserError) as refused:
        import_model(plain, config_with(**settings))
    [line] = str(refused.value).splitlines()
    assert line.startswith(f"{plain}: ") and words in line


def test_a_concatenation_in_another_order_is_another_network(tmp_path: Path) -> None:
    file = save(original(keras, lambda_in=False, swapped=True), tmp_path, "best_model.keras")
    with pytest.raises(UserError, match="reads other layers, or in another order"):
        import_model(file, config_with(**RAW))


def changed_config(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites the architecture in a whole model's HDF5."""
    with h5py.File(file, "r+") as opened:
        config = json.loads(opened.attrs["model_config"])
        change(config)
        opened.attrs["model_config"] = json.dumps(config)


def layer_entry(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(entry for entry in config["config"]["layers"] if entry["class_name"] == kind)


def linked_away(file: Path) -> None:
    """The first kernel is another file's: an HDF5 file can say so."""
    with h5py.File(file, "r+") as opened:
        group = opened["model_weights"]["conv2d"]["conv2d"]
        name = next(iter(group))
        del group[name]
        group[name] = h5py.ExternalLink("/etc/passwd", "/x")


def stored_away(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        group = opened["model_weights"]["conv2d"]["conv2d"]
        name = next(name for name in group if "kernel" in name)
        del group[name]
        group.create_dataset(name, (5, 5, 3, 4), "f4", external=[("/etc/passwd", 0, 1200)])


def not_finite(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        group = opened["model_weights"]["conv2d"]["conv2d"]
        group[next(name for name in group if "bias" in name)][0] = np.nan


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:20_000]), "cannot be read"),
    "text": (lambda p: p.write_text("weights"), "cannot be read"),
    "pickle": (lambda p: p.write_bytes(b"\x80\x04\x95c\x00."), "cannot be read"),
    "no JSON": (lambda p: changed_config(p, lambda c: c.clear()), "cannot be read"),
    "a class of its own": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Conv2D").update(class_name="Evil")),
        "is a Evil, expected only InputLayer, Conv2D",
    ),
    "a registered class": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Conv2D").update(registered_name="mine>Conv2D")),
        "another network, or code of its own",
    ),
    "a module of its own": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Conv2D").update(module="os")),
        "another network, or code of its own",
    ),
    "a Lambda within": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "MaxPooling2D").update(class_name="Lambda")),
        "stands between other layers",
    ),
    "no inputs": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Dropout").update(inbound_nodes=[])),
        "cannot be read (IndexError",
    ),
    "strange settings": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Concatenate")["config"].update(axis="x")),
        "cannot be read (TypeError",
    ),
    "a layer used twice": (
        lambda p: changed_config(p, lambda c: layer_entry(c, "Conv2D")["inbound_nodes"].append([])),
        "is used 2 times",
    ),
    "another file's array": (linked_away, "is missing, or a link"),
    "another file's bytes": (stored_away, "is no array of numbers in this file"),
    "NaN": (not_finite, "weights of conv2d are not finite"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_hostile_files_are_one_line(kind: str, plain: Path, tmp_path: Path) -> None:
    damage, words = DAMAGE[kind]
    file = tmp_path / "best_model.h5"
    file.write_bytes(plain.read_bytes())
    damage(file)
    with pytest.raises(UserError) as refused:
        import_model(file, config_with())
    [line] = str(refused.value).splitlines()
    assert line.startswith(f"{file}: ") and words in line and "expected" in line


def test_what_a_lambda_does_is_never_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras 2 stores it as bytecode, and runs it when it loads the file."""
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    model = original(tf_keras)
    layer = next(layer for layer in model.layers if isinstance(layer, tf_keras.layers.Lambda))
    layer.function = lambda x: (open(__import__("os").environ["MARK"], "w").close(), x / 255)[1]  # noqa: PTH123
    file = save(model, tmp_path, "best_model.h5")
    tf_keras.models.load_model(file, compile=False)
    assert mark.exists(), "Keras runs it"
    mark.unlink()
    import_model(file, config_with())
    assert not mark.exists()


def test_an_archive_that_unpacks_to_more_than_any_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "best_model.keras"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * 20_000_000)
    with pytest.raises(UserError, match=r"config\.json has more than 10,000,000 bytes"):
        import_model(file, config_with())


def test_a_config_with_another_encoder_is_refused(plain: Path) -> None:
    config = config_with(image={"width": 32}, encoder="efficientnetv2-b0", num_layers=5)
    with pytest.raises(UserError, match=r"^model.encoder is 'efficientnetv2-b0', expected 'flexunet': the original"):
        import_model(plain, config)


def test_channels_of_an_old_project_are_swapped(plain: Path) -> None:
    straight = import_model(plain, config_with()).model.predict(pixels(), verbose=0)
    swapped = import_model(plain, config_with(), swap_channels=True)
    np.testing.assert_allclose(swapped.model.predict(pixels()[..., ::-1], verbose=0), straight, atol=1e-6)
    assert "trained on BGR" in swapped.notes[-1]


def test_the_command_writes_an_export_or_nothing(plain: Path, tmp_path: Path, capfd: Any) -> None:
    config, out = tmp_path / "mine.toml", tmp_path / "imported"
    lines = [f'[[classes]]\nname = "class{i}"\ncolor = [{i}, 0, 0]' for i in range(4)]
    lines += [f"[image]\nheight = {HEIGHT}\nwidth = {WIDTH}", "[model]", *(f"{k} = {v}" for k, v in FACTS.items())]
    config.write_text("\n".join(lines))

    def code(*options: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main.main(["import", "model", str(plain), "--config", str(config), str(out), *options])
        return int(ended.value.code or 0)

    assert code("--set", "model.base_kernel=3") == 1
    assert "(model.base_kernel)" in capfd.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["mine.toml"]
    target = "operating_point.target='found >= 0.9'"
    assert code("--json", "--set", target) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["model"] == str(out)
    # No thresholds are in its graph: who asks for them is told, when it is made and when it is judged.
    assert any(note.startswith("operating_point.target, 'found >= 0.9', is left out") for note in printed["notes"])
    [warning] = check_imported(out, load_config(str(config), (target,)))
    assert "it has none, every pixel has its most probable class" in warning
    assert check_imported(out, load_config(str(config), ())) == []
    facts = json.loads((out / "assets.extra/training.json").read_text())
    assert facts["weights"]["file"] == "best_model.h5" and len(facts["weights"]["sha256"]) == 64
    assert code() == 1
    assert "is there already" in capfd.readouterr().err
