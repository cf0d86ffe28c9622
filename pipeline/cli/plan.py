"""`flexunet plan`."""

import shlex
from pathlib import Path

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, NEW_CONFIG, PATH


@click.command(cls=Command, interrupted="nothing was written")
@click.argument("data", type=PATH)
@NEW_CONFIG
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=3600.0,
    show_default=True,
    help="Of training, on this machine; a fold of a cross-validation takes them too.",
)
@AS_JSON
def plan(data: Path, out: Path, seconds: float) -> None:
    """Looks at DATA (OUT of ingest) and this machine, and writes a whole config with a reason beside each choice.

    Examples:
      flexunet plan records --out mine.toml
      flexunet plan records --out mine.toml --seconds 1800
    """
    from flexunet.cli.tables import busy
    from flexunet.core.files import replace_text
    from flexunet.dataset.manifest import read_manifest

    newest = read_manifest(data)
    with captured_output(NO_LOG) as console:
        with busy(console, "loading TensorFlow"):
            from pipeline.study.plan import Planner, plan_for
        planner = Planner(newest, seconds)
        with busy(console, "looking at images, and timing models for some seconds each"):
            plan_for(planner, data)
        lines = [f"Written by `flexunet plan {shlex.quote(str(data))} --seconds {seconds:g}`."]
        replace_text(out, planner.toml(lines))
        for key, reason in planner.reasons.items():
            section, _, name = key.partition(".")
            console.print(f"{key} = {planner.values[section][name]}: {reason}")
        console.print(f"written: {out}; next: flexunet run --config {out} --data {data} --root runs/{out.stem}")
    print_result({"config": out, "values": planner.values, "reasons": planner.reasons})
