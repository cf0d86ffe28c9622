"""`flexunet import model`."""

from pathlib import Path

import click

from flexunet.cli.command import Command, spelled
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, CONFIG, FILE, PATH, SET, not_there


@click.command("model", cls=Command)
@click.argument("file", type=FILE)
@CONFIG
@SET
@click.option("--bgr", is_flag=True, help="The file was trained on BGR pixels: image.color_order of the original.")
@click.argument("out", type=PATH, callback=not_there)
@AS_JSON
def import_model(file: Path, config: str, overrides: tuple[str, ...], bgr: bool, out: Path) -> None:
    """Makes a model of this project from FILE, a Keras file (.h5, .keras) of the layers that the config asks for.

    Nothing in the file is run; its layers are compared with the config's before a weight is taken.

    Examples:
      flexunet import model best_model.h5 --config mine.toml imported
      flexunet import model models/best_model.h5 --config mine.toml imported --bgr
    """
    from flexunet.cli.tables import busy, print_warning
    from flexunet.core.config.load import load_config
    from flexunet.core.config.section import part_of
    from flexunet.core.config.train import TrainerConfig

    loaded = load_config(config, overrides)
    with captured_output(NO_LOG) as console:
        with busy(console, "loading TensorFlow"):
            from trainer_module import imported
        with busy(console, f"exporting {file}"):
            settings = part_of(loaded, TrainerConfig)
            found = imported.import_model(file, settings, bgr)
            imported.export_imported(found, settings, out)
            parameters = found.model.count_params()
        for note in found.notes:
            print_warning(note, console)
        console.print(f"written: {out}, {parameters:,} parameters of {file}")
        judged = ("--config", config, "--data", "records", "--root", "runs/imported")
        console.print(f"next: {spelled('evaluate', out, 'records', '--config', config)}")
        console.print(f"next: {spelled('run', '--from-model', out, *judged)}")
    print_result({"model": out, "parameters": parameters, "notes": list(found.notes)})
