"""A configuration as keys: what is not the default, and what two of them differ in."""

from collections.abc import Callable

from flexunet.core.config.whole import Config
from flexunet.reporting.settings import Difference, differences, settings_of, written


def test_only_what_is_not_the_default_counts_as_changed(make_config: Callable[..., Config]) -> None:
    config = make_config(train={"epochs": 7}).model_dump(mode="json")
    settings = {setting.key: setting for setting in settings_of(config)}
    assert settings["train.epochs"].changed and settings["train.epochs"].value == "7"
    assert not settings["train.plateau_factor"].changed
    assert settings["classes.patches"].value == "[0, 255, 0]"


def test_differences_name_each_key_once(make_config: Callable[..., Config]) -> None:
    here = make_config(train={"epochs": 7}).model_dump(mode="json")
    there = make_config(train={"epochs": 8}).model_dump(mode="json")
    there["gate"] = {**there["gate"], "min_class_dice": {"patches": 0.5}}
    del there["image"]
    found = {difference.key: difference for difference in differences(here, there)}
    assert found["train.epochs"] == Difference("train.epochs", "7", "8")
    assert found["gate.min_class_dice"] == Difference("gate.min_class_dice", "{ }", "{ patches = 0.5 }")
    assert found["image.height"] == Difference("image.height", "32", None)
    assert not any(key.startswith("model.") for key in found)
    assert differences(here, here) == []


def test_values_are_written_as_in_a_file() -> None:
    assert [written(value) for value in (None, True, "pad", [1, 2.5], 1e-4)] == [
        "unset",
        "true",
        '"pad"',
        "[1, 2.5]",
        "0.0001",
    ]
