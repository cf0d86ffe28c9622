"""`flexunet live`: what a served model is asked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from flexunet.cli.command import Command, SectionedGroup
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, PATH, PORT, WATCHED
from flexunet.core.errors import Drifted, UserError

if TYPE_CHECKING:
    from flexunet.core.results.live import LiveDrift

_MEGABYTE: Final = 10**6
_SECTIONS: Final = {
    "Commands": {
        "watch": "flexunet.cli.live:watch",
        "drift": "flexunet.cli.live:drift",
        "queue": "pipeline.cli.queue",
        "canary": "flexunet.cli.canary",
        "promote": "flexunet.cli.canary:promote",
        "rollback": "flexunet.cli.canary:rollback",
    }
}


@click.group(cls=SectionedGroup, sections=_SECTIONS)
def live() -> None:
    """Watches a served model: docs/how-to/watch.md.

    Examples:
      flexunet live watch --out runs/mine/live
      flexunet live drift runs/mine
      flexunet live queue runs/mine --out to-label
      flexunet live canary runs/mine
    """


@click.command(cls=Command, interrupted="what was seen is written")
@click.option("--out", required=True, type=PATH, help="Folder of what was seen, such as ROOT/live.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8600, show_default=True, type=PORT, help="Port of gRPC; 0: a free one.")
@click.option("--rest-port", default=8601, show_default=True, type=PORT, help="Port of REST; 0: a free one.")
@click.option("--metrics-port", type=PORT, help="Port of what Prometheus reads; 0: a free one.  [default: none]")
@click.option("--server", default="127.0.0.1", show_default=True, help="Where TF Serving is.")
@click.option("--server-grpc-port", default=8500, show_default=True, type=PORT, help="Its port of gRPC.")
@click.option("--server-rest-port", default=8501, show_default=True, type=PORT, help="Its port of REST.")
@click.option(
    "--rate",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the requests whose images are looked at.",
)
@click.option(
    "--compare",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of these images that a canary and the stable version are asked of again.",
)
@click.option(
    "--camera-header",
    default="",
    metavar="NAME",
    help="Header whose values tell cameras apart; no other is kept.",
)
@click.option(
    "--keep-images",
    "megabytes",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="MB",
    help="Images are kept up to so much: half at random, half those that the model was least sure of.",
)
@click.option(
    "--days",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="After so long all that was kept is removed.",
)
@click.option(
    "--forget-beside",
    is_flag=True,
    help="Likewise what watches that are gone left in the folders beside OUT, such as those of earlier pods.",
)
def watch(
    out: Path,
    host: str,
    grpc_port: int,
    rest_port: int,
    metrics_port: int | None,
    server: str,
    server_grpc_port: int,
    server_rest_port: int,
    rate: float,
    compare: float,
    camera_header: str,
    megabytes: int,
    days: float,
    forget_beside: bool,
) -> None:
    """Stands in front of TF Serving, hands every byte on, and keeps numbers of the images that go by.

    Examples:
      flexunet live watch --out runs/mine/live
      flexunet live watch --out runs/mine/live --camera-header X-Camera --keep-images 500 --days 14
    """
    import asyncio
    import signal

    from flexunet.core.disk import require_writable
    from flexunet.core.lock import locked
    from flexunet.live.proxy import Settings, grpc_route, rest_route, run
    from flexunet.live.store import LOG_FILE, Kept

    require_writable(out)
    kept = Kept(out, days, megabytes * _MEGABYTE, camera_header, forget_beside)
    routes = (grpc_route(grpc_port, server_grpc_port), rest_route(rest_port, server_rest_port))
    with locked(out), captured_output(out / LOG_FILE) as console:

        def ready(ports: list[int]) -> None:
            console.print("\n".join(_addresses(host, ports, server, (server_grpc_port, server_rest_port))))
            console.print(f"numbers of the images that go by: {out}; Ctrl-C ends it")

        if asyncio.run(run(Settings(host, server, routes, kept, rate, compare, metrics_port), ready)) == signal.SIGINT:
            raise KeyboardInterrupt


def _addresses(host: str, ports: Sequence[int], server: str, served: Sequence[int]) -> Iterator[str]:
    """Where gRPC and REST come in and go on to; and what Prometheus reads, where there is a third port."""
    yield f"grpc://{host}:{ports[0]} -> {server}:{served[0]}"
    yield f"http://{host}:{ports[1]} -> {server}:{served[1]}"
    if len(ports) > 2:
        yield f"http://{host}:{ports[2]}/metrics for Prometheus"


@click.command(cls=Command)
@click.argument("root", type=PATH, metavar="ROOT")
@WATCHED
@click.option(
    "--hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The last so many are compared.",
)
@click.option(
    "--data", type=PATH, metavar="DIR", help="Records with eval and test.  [default: those of the model's run]"
)
@AS_JSON
def drift(root: Path, given: tuple[Path, ...], hours: float, data: Path | None) -> None:
    """Compares served images with those that the served version was tried on; exits with 5 if they moved.

    Examples:
      flexunet live drift runs/mine
      flexunet live drift runs/mine --hours 72 --json
    """
    import time

    from flexunet.cli.tables import bars, print_warning
    from flexunet.core.root import Root
    from flexunet.live.drift import drift_words, find_drift
    from flexunet.live.reference import reference_file, reference_of
    from flexunet.serving.versions import model_directory

    folders = given or (Root(root).live,)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, expected what `flexunet live watch --out` writes to: name it")
    # Of the served version, whichever replicas there are today.
    kept = Root(root).live
    version = model_directory(Root(root).serving)
    now = time.time()
    with captured_output(NO_LOG) as console:
        if data and reference_file(version, kept).is_file():
            words = "remove it to ask the model of these records"
            print_warning(f"{reference_file(version, kept)} is there, so --data is not read: {words}", console)
        with bars(console) as progress:
            reference = reference_of(version, kept, lambda: data or _records_of(version), progress)
        found = find_drift(folders, int(version.name), reference, now, hours)
        page = _keep(found, kept, folders, now)
        words = [*drift_words(found)]
        verdict = f"{len(words)} of {len(found['findings'])} numbers moved" if found["findings"] else "too few images"
        console.print(f"{verdict}: {found['sampled']:,} images of {hours:g} hours, {page}")
    print_result(found)
    if words:
        raise Drifted("\n".join(words))


def _keep(found: "LiveDrift", kept: Path, folders: Sequence[Path], now: float) -> Path:
    """Writes findings and their page into `kept`, and into each watch's folder what it tells Prometheus.

    Returns:
      The page.
    """
    from flexunet.core.files import replace_text, write_json
    from flexunet.live.drift import metrics_text
    from flexunet.live.store import DRIFT_METRICS
    from flexunet.reporting.drift import DRIFT_PAGE, render_drift

    write_json(kept / "drift.json", found)
    replace_text(kept / DRIFT_PAGE, render_drift(found))
    # In every folder: an old one would stand as an alarm.
    for folder in folders:
        replace_text(folder / DRIFT_METRICS, metrics_text(found, now))
    return kept / DRIFT_PAGE


def _records_of(version: Path) -> Path:
    """The records that made a served version.

    Raises:
      UserError: they are not known, or no longer there.
    """
    from flexunet.history.lineage import data_folder

    records = data_folder(version, "records")
    if records is None:
        raise UserError(
            f"{version}: the records of its run are not there, expected a folder of them: name it by --data"
        )
    return records
