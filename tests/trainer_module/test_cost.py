"""What a model costs."""

from pathlib import Path
from typing import Any

import pytest
from command_line import flexunet
from layers import config_of
from PIL import Image

from flexunet.cli.main import main
from flexunet.core.config.load import load_config
from flexunet.core.config.section import part_of
from flexunet.core.config.train import ModelConfig, TrainerConfig
from flexunet.core.errors import UserError
from trainer_module.cost import activation_bytes, draw_diagram, layer_costs
from trainer_module.model import build_model


def test_the_seeds_model_has_14_and_a_half_gmac() -> None:
    config = load_config("synthetic-neu-seg")
    costs = layer_costs(build_model(config))
    assert sum(cost.multiply_accumulates for cost in costs) / 1e9 == pytest.approx(14.5, abs=0.05)
    assert sum(cost.parameters for cost in costs) == 124_996_900


def test_costs_of_a_small_model_by_hand() -> None:
    model = build_model(config_of(ModelConfig(num_layers=2, base_filters=2, base_kernel=3), 8, classes=2))
    costs = {cost.name: cost for cost in layer_costs(model)}
    expected = {
        "encoder0_a": 64 * 9 * 3 * 2,
        "encoder0_b": 64 * 9 * 2 * 2,
        "bridge1_a": 16 * 9 * 2 * 4,
        "bridge1_b": 16 * 9 * 4 * 4,
        # Each pixel of the result sees one of the four weights of each channel below.
        "decoder0_up": 64 * 4 * 2,
        "decoder0_a": 64 * 9 * 4 * 2,
        "decoder0_b": 64 * 9 * 2 * 2,
        "head": 64 * 2 * 2,
    }
    assert {name: cost.multiply_accumulates for name, cost in costs.items() if cost.multiply_accumulates} == expected
    assert costs["decoder0_concatenate"].outputs == 8 * 8 * 4
    numbers = sum(cost.outputs for cost in costs.values())
    assert activation_bytes(list(costs.values()), batch_size=3) == numbers * 3 * 4


def test_behind_a_stem_levels_cost_a_quarter() -> None:
    layers = ModelConfig(num_layers=2, base_filters=2, base_kernel=3, stem_stride=2)
    costs = {cost.name: cost for cost in layer_costs(build_model(config_of(layers, 8, classes=2)))}
    assert costs["stem"].multiply_accumulates == 16 * 4 * 3 * 2
    assert costs["encoder0_a"].multiply_accumulates == 16 * 9 * 2 * 2
    assert costs["head"].multiply_accumulates == 64 * 2 * 2 and costs["head"].output_shape == (8, 8, 2)


def test_the_diagram_is_drawn(tmp_path: Path, make_config: Any) -> None:
    config = part_of(make_config(model={"num_layers": 3, "stem_stride": 2}), TrainerConfig)
    draw_diagram(config, tmp_path / "model.png")
    assert min(Image.open(tmp_path / "model.png").size) > 200
    draw_diagram(config, tmp_path / "model.svg")
    # matplotlib writes a text's words beside its outlines.
    drawn = (tmp_path / "model.svg").read_text()
    assert all(f"<!-- {side}x{side}x{filters} -->" in drawn for side, filters in ((16, 8), (8, 16), (4, 32)))
    with pytest.raises(UserError, match=r"model.bmp: expected a file that ends in one of .png, .svg, .pdf"):
        draw_diagram(config, tmp_path / "model.bmp")


def test_inspect_tells_the_totals(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspect", "--config", "demo", "--batch", "4", "--diagram", str(tmp_path / "d.svg")])
    printed = capfd.readouterr().out
    assert left.value.code == 0
    assert "122,260 parameters, 0.15 GMAC an image, 50 MiB of activations for a training step of 4 images" in printed
    assert "encoder0_a" in printed and (tmp_path / "d.svg").is_file()


def test_a_diagram_of_another_kind_is_refused_before_anything_is_printed(tmp_path: Path) -> None:
    done = flexunet(tmp_path, "inspect", "--config", "demo", "--diagram", "model.gif")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: --diagram model.gif: expected a file that ends in one of .png, .svg, .pdf\n"
    assert not any(tmp_path.iterdir())
