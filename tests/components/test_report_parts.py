"""What a report shows besides scores."""

from pathlib import Path
from typing import Any

from components import report_parts
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.files import read_json, write_json
from flexunet.core.root import ReportFolder
from trainer_module.model import build_model


def test_an_ensemble_has_the_parameters_of_all_its_members(tmp_path: Path, make_config: Any) -> None:
    config, found = part_of(make_config(), TrainerConfig), {}
    for name, facts in (("one", {}), ("ensemble", {"members": 3})):
        extra, folder = tmp_path / name / "assets.extra", ReportFolder(tmp_path / f"report of {name}")
        for made in (extra, folder.path):
            made.mkdir(parents=True)
        write_json(extra / "config.json", config.model_dump(mode="json"))
        write_json(extra / "training.json", facts)
        report_parts.write_model(folder, tmp_path / name)
        found[name] = read_json(folder.model)
    one, ensemble = found["one"], found["ensemble"]
    assert one["parameters"] == build_model(config).count_params() and "members" not in one
    assert (ensemble["members"], ensemble["parameters"]) == (3, 3 * one["parameters"])
    assert ensemble["multiply_accumulates"] == 3 * one["multiply_accumulates"]
    assert ensemble["layers"] == one["layers"]
