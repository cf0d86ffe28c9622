"""The last step of a run: publishes the report and fails the run with the gate's words if the model was refused.

It is never retried: its answer is about the model, and would be the same. Exit codes: 2 the gate, 4 the serving
validator.
"""

import os
from pathlib import Path

import click

from flexunet.core.errors import ServingRefused
from kubeflow import entry
from kubeflow.files import LONGEST_WAIT, Run, Verdict


@click.command()
@click.option("--root", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the runs.")
@click.option("--run-id", required=True, help="Kubeflow's id of the run.")
def main(root: Path, run_id: str) -> None:
    """Prints scores, the gate's checks and the verdict."""
    run = Run(root, run_id)
    ir = run.read_pipeline()

    from flexunet.core.lock import locked
    from kubeflow.attempts import all_results
    from kubeflow.database import open_database
    from pipeline.cli.outcome import print_outcome
    from pipeline.run import publish_report

    results = all_results(ir, open_database(os.environ))
    with locked(root, wait_seconds=LONGEST_WAIT):
        metrics = publish_report(results, root, run_id)
    console = entry.console()
    refusal = print_outcome(metrics, root, console)
    refused_by = "" if refusal is None else "serving" if isinstance(refusal, ServingRefused) else "gate"
    told = Verdict(refused_by, str(refusal or ""), console.export_text().splitlines())
    run.write_verdict(told)
    console.print(told.as_line())
    if refusal:
        raise refusal


if __name__ == "__main__":
    entry.run(main)
