"""`flexunet plan`."""

import shlex
from pathlib import Path

import click

from flexunet.cli.command import Command, spelled
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, NEW_CONFIG, PATH, complete_presets


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
@click.option(
    "--config",
    metavar="C",
    help="The config that ingest had, if it was no preset's: what is not planned is taken from it.",
    shell_complete=complete_presets,
)
@AS_JSON
def plan(data: Path, out: Path, seconds: float, config: str | None) -> None:
    """Looks at DATA (OUT of ingest) and this machine, and writes a whole config with a reason beside each choice.

    Planned are [image], [model], [train], [augment], the symmetries of answers, and bounds that C does not set.

    Examples:
      flexunet plan records --out mine.toml
      flexunet plan records --out mine.toml --seconds 1800
      flexunet plan records --out planned.toml --config mine.toml
    """
    from flexunet.cli.tables import busy, print_warning
    from flexunet.core.config.load import load_config
    from flexunet.core.files import replace_text
    from flexunet.dataset.compatible import check_data
    from flexunet.dataset.manifest import newest_spans, read_manifest

    base = load_config(config) if config else None
    # Without a config of its own a run reads one span.
    spans = newest_spans(data, base.dataset.span_limit if base else 1) or [read_manifest(data)]
    warning = check_data(data, base, training=False) if base else None
    with captured_output(NO_LOG) as console:
        with busy(console, "loading TensorFlow"):
            from pipeline.study.plan import Planner, plan_for
        if warning:
            print_warning(warning, console)
        planner = Planner(spans, seconds, base)
        with busy(console, "looking at images, and timing models for some seconds each"):
            plan_for(planner, data)
        given = f" --config {shlex.quote(config)}" if config else ""
        lines = [f"Written by `flexunet plan {shlex.quote(str(data))} --seconds {seconds:g}{given}`."]
        replace_text(out, planner.toml(lines))
        for key, reason in planner.reasons.items():
            section, _, name = key.partition(".")
            console.print(f"{key} = {planner.values[section][name]}: {reason}")
        follow = spelled("run", "--config", out, "--data", data, "--root", f"runs/{out.stem}")
        console.print(f"written: {out}; next: {follow}")
    print_result({"config": out, "values": planner.whole(), "reasons": planner.reasons})
