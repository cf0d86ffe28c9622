"""`flexunet inspect`."""

from dataclasses import asdict
from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, CONFIG, PATH, SET


@click.command(cls=Command)
@CONFIG
@SET
@click.option(
    "--batch", type=click.IntRange(min=1), help="Batch size whose memory is told.  [default: train.batch_size]"
)
@click.option("--diagram", type=PATH, metavar="FILE", help="Draws the levels: PNG, SVG or PDF.")
@AS_JSON
def inspect(config: str, overrides: tuple[str, ...], batch: int | None, diagram: Path | None) -> None:
    """Tells layers, parameters, memory and multiply-accumulates of the model of a config.

    Examples:
      flexunet inspect --config neu-seg --set model.base_filters=16
      flexunet inspect --config synthetic-neu-seg --diagram model.svg
    """
    from flexunet.cli.tables import busy, make_table
    from flexunet.core.config.load import load_config

    loaded = load_config(config, overrides)
    with captured_output(NO_LOG) as console:
        with busy(console, "loading TensorFlow"):
            from trainer_module.cost import check_diagram, draw_diagram, model_cost
        if diagram is not None:
            check_diagram(diagram)
        images = batch or loaded.train.batch_size
        cost = model_cost(loaded, images)
        figures = ("parameters", "million MAC")
        table = make_table(console, "layer", "kind", "output", *figures, numbers=figures)
        for layer in cost.layers:
            shape = "x".join(map(str, layer.output_shape))
            parameters, million = f"{layer.parameters:,}", f"{layer.multiply_accumulates / 1e6:,.1f}"
            table.add_row(layer.name, layer.kind, shape, parameters, million)
        console.print(table)
        console.print(
            f"{cost.parameters:,} parameters, {cost.multiply_accumulates / 1e9:.2f} GMAC an image, "
            f"{cost.activation_bytes / 2**20:,.0f} MiB of activations for a training step of {images} images"
        )
        if diagram is not None:
            draw_diagram(loaded, diagram)
            console.print(f"diagram: {diagram}")
    print_result(asdict(cost))
