"""What `flexunet kubeflow compile` and `submit` do; flexunet/cli/main.py only reads their options."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexunet.cli.console import NO_LOG, captured_output
from flexunet.core.config.load import load_config


def run_compile(config: str, overrides: Sequence[str], image: str, output: Path) -> None:
    """`flexunet kubeflow compile`."""
    loaded = load_config(config, overrides)
    with captured_output(NO_LOG) as console:
        from kubeflow.package import Package, node_graph, write_package

        package = Package(loaded, image, node_graph(loaded))
        write_package(package, output)
        console.print(f"{output}: {len(package.upstream)} nodes, prepare and verdict, in the image {image}")


def run_submit(
    package: Path,
    host: str,
    namespace: str | None,
    experiment: str,
    service_account: str | None,
    name: str | None,
    schedule: str | None,
    wait: bool,
    poll_seconds: float,
    **parameters: Any,
) -> None:
    """`flexunet kubeflow submit`."""
    with captured_output(NO_LOG) as console:
        from kubeflow import outcome, submit

        settings, names = submit.read_package(package)
        account = service_account or settings.service_account
        kubeflow = submit.Kubeflow(submit.Target(host, namespace, experiment, account))
        version = kubeflow.upload(package)
        given = submit.run_parameters(**parameters)
        run_name = name or f"flexunet {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        if schedule is not None:
            console.print(kubeflow.link("recurringrun", kubeflow.schedule(version, run_name, given, schedule)))
            return
        run_id = kubeflow.start(version, run_name, given)
        link = kubeflow.link("runs", run_id)
        console.print(link)
        if not wait:
            return
        run = kubeflow.follow(run_id, names, console.print, poll_seconds)
        verdict = outcome.ended_verdict(run, names)
        outcome.judge(run, names, kubeflow.log(run_id, verdict) if verdict else None, link, console.print)
