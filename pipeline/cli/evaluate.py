"""`flexunet evaluate`."""

from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, CONFIG, PATH, SET


@click.command(cls=Command)
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.argument("data", type=PATH)
@CONFIG
@SET
@click.option("--baseline", type=PATH, metavar="MODEL_DIR", help="Model to compare with.")
@click.option("--out", type=PATH, help="Folder that metrics.json and details.json are written to.")
@AS_JSON
def evaluate(
    model: Path, data: Path, config: str, overrides: tuple[str, ...], baseline: Path | None, out: Path | None
) -> None:
    """Measures a model on the test split of DATA (OUT of ingest) as the pipeline does; exits with 2 if it is refused.

    Examples:
      flexunet evaluate runs/mine/serving_model records --config mine.toml
      flexunet evaluate new-model records --config mine.toml --baseline runs/mine/serving_model --json
    """
    from flexunet.cli.tables import busy, print_warning
    from flexunet.core.config.load import load_config
    from flexunet.core.disk import require_writable
    from flexunet.dataset.compatible import check_data
    from flexunet.serving.versions import model_directory
    from pipeline.cli.outcome import print_checks, print_next_step, print_scores, refusal_of

    loaded = load_config(config, overrides)
    if out:
        require_writable(out)
    warning = check_data(data, loaded, training=False)
    directory = model_directory(model)
    compared = model_directory(baseline) if baseline else None
    with captured_output(NO_LOG) as console:
        with busy(console, "loading TFX"):
            from pipeline.measure import measure
        with busy(console, f"measuring {directory}"):
            metrics, details = measure(directory, data, loaded, compared, out)
        if warning:
            print_warning(warning, console)
        print_scores(metrics, details, console)
        print_checks(metrics, details, console)
        print_next_step(metrics, console)
    print_result(metrics)
    refusal = refusal_of(metrics)
    if refusal:
        raise refusal
