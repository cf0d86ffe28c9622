"""What the commands do and print; pipeline/cli.py only reads their options."""

import datetime
import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.config import Config, load_config
from pipeline.console import captured_output
from pipeline.errors import ModelRefused, NodeFailed, ServingRefused, UserError
from pipeline.lock import locked

if TYPE_CHECKING:
    from pipeline.local import NodeResult

# Commands without a run: what libraries print is dropped, exceptions still reach the terminal.
NO_LOG: Final = Path(os.devnull)

DEMO_IMAGES: Final = 480
DEMO_SIZE: Final = 128
DEMO_SEED: Final = 137


def run_demo(root: Path, overrides: Sequence[str]) -> None:
    """Generates surfaces, ingests them, runs the pipeline and predicts a few test images."""
    config = load_config("demo", overrides)
    surfaces, records = root / "data" / "surfaces", root / "data" / "records"
    log = _log_file(root)
    with locked(root), captured_output(log) as console:
        _generate(surfaces, config, console)
        _ingest(surfaces, records, config, console)
        _run(config, records, root, (), console, log)


def run_ingest(
    source: Path,
    out: Path,
    config: str,
    overrides: Sequence[str],
    check: bool,
    splits: Any,
    skip_bad: bool,
    span: int,
    metadata: Path | None,
) -> None:
    """`flexunet ingest`."""
    loaded = load_config(config, overrides)
    options = {"splits": splits, "skip_bad": skip_bad, "check_only": check, "span": span, "metadata": metadata}
    with captured_output(NO_LOG) as console:
        _ingest(source, out, loaded, console, **options)


def run_pipeline(
    config: str,
    data: Path,
    root: Path,
    overrides: Sequence[str],
    beam_args: Sequence[str],
    accept_refused: str,
) -> None:
    """`flexunet run`."""
    loaded = load_config(config, overrides)
    warning = _check_data(data, loaded)
    log = _log_file(root)
    with locked(root), captured_output(log) as console:
        if warning:
            console.print(f"warning: {warning}")
        _run(loaded, data, root, beam_args, console, log, accept_refused)


def run_evaluate(
    model: Path, data: Path, config: str, overrides: Sequence[str], baseline: Path | None, out: Path | None
) -> None:
    """`flexunet evaluate`."""
    from serving.exported import model_directory

    loaded = load_config(config, overrides)
    warning = _check_data(data, loaded, training=False)
    directory = model_directory(model)
    compared = model_directory(baseline) if baseline else None
    with captured_output(NO_LOG) as console:
        from pipeline.measure import measure

        metrics, details = measure(directory, data, loaded, compared, out)
        if warning:
            console.print(f"warning: {warning}")
        _print_scores(metrics, details, console)
        _print_checks(metrics, details, console)
    if not metrics["blessed"]:
        raise ModelRefused(f"the gate refuses the model: {_failures(metrics)}")


def run_predict(
    target: str, images: Sequence[Path], out: Path, config: str | None, tiled: bool, concurrency: int, **options: Any
) -> None:
    """`flexunet predict`."""
    from serving.predict import Job, image_files, predict_files
    from serving.transport import Options, connect

    files, shown = image_files(images, out), _shown_config(target, config)
    seconds: list[float] = []
    with captured_output(NO_LOG) as console, connect(target, Options(**options)) as model:
        with _bars(console) as progress:
            advance = progress("predicting", len(files))

            def step(taken: float | None) -> None:
                seconds.extend([] if taken is None else [taken])
                advance(f"predicting, {_quantiles(seconds)}")

            failures = predict_files(Job(model, shown, tiled, concurrency), files, out, step)
        console.print(
            f"{len(files) - len(failures)} of {len(files)} images: masks, overlays and areas.csv in {out}; "
            f"{_quantiles(seconds)}"
        )
    if failures:
        raise UserError("\n".join(f"{f.image}: no prediction ({f.reason})" for f in failures))


def run_serve(directory: Path, host: str, grpc_port: int, rest_port: int, docker: bool) -> None:
    """`flexunet serve`."""
    from serving.docker import docker_command
    from serving.exported import model_directory

    if docker:
        click.echo(docker_command(model_directory(directory), grpc_port, rest_port))
        return
    from serving.server import Server
    from serving.wire import MODEL_NAME

    with captured_output(NO_LOG) as console, Server(directory, host, grpc_port, rest_port) as server:
        console.print(f"grpc://{host}:{server.grpc_port}  http://{host}:{server.rest_port}/v1/models/{MODEL_NAME}")
        console.print("a development server, not TF Serving: it does not batch, reload or limit; Ctrl-C stops it")
        threading.Event().wait()


def _shown_config(target: str, config: str | None) -> Any:
    """Classes and colours: a folder tells them, a server does not."""
    from serving.exported import exported_config, model_directory

    if config is not None:
        return load_config(config)
    if "://" in target:
        raise UserError(f"{target}: a server does not tell classes and colours; add --config, that of the training")
    return exported_config(model_directory(Path(target)))


def _quantiles(seconds: Sequence[float]) -> str:
    import numpy as np

    if not seconds:
        return "no answer yet"
    half, most = np.quantile(seconds, (0.5, 0.95)) * 1000
    return f"p50 {half:.0f} ms, p95 {most:.0f} ms"


def run_rollback(root: Path, to: int | None, keep: int | None) -> None:
    """`flexunet rollback`."""
    from components.pushes import record_rollbacks, sqlite_connection
    from serving.versions import finish_rollback, keeping, roll_back

    serving = root / "serving_model"
    if not serving.is_dir():
        raise UserError(f"{serving}: no such folder, expected the --root of a run that pushed a model")
    with locked(root), captured_output(NO_LOG) as console:
        mirror = keeping(serving).mirror
        above = _newest_mirrored(mirror)
        done = roll_back(serving, to, keep, above)
        record_rollbacks(sqlite_connection(root / "metadata.db"), serving)
        if mirror:
            _mirror(done.version, mirror, keep or keeping(serving).versions)
        finish_rollback(serving)
        console.print(
            f"version {done.restored} is served again as version {done.version.name}; version {done.withdrawn} is "
            "rolled back: no run pushes that model again or compares with it"
        )
        console.print(f"to bring it back: flexunet rollback --root {root} --to {done.withdrawn}")


def _newest_mirrored(store: str) -> int:
    if not store:
        return 0
    from components.mirror import newest_mirrored  # it imports TFX

    return newest_mirrored(store)


def _mirror(version: Path, store: str, keep: int | None) -> None:
    from components.mirror import mirror_version

    try:
        mirror_version(version, store, keep)
    except UserError as error:
        raise UserError(
            f"{error}; version {version.name} is served from {version.parent} already, the same command again copies it"
        ) from error


def run_inspect(config: str, overrides: Sequence[str], batch: int | None, diagram: Path | None) -> None:
    """`flexunet inspect`."""
    loaded = load_config(config, overrides)
    with captured_output(NO_LOG) as console:
        from trainer_module.model import build_model
        from trainer_module.summary import activation_bytes, draw_diagram, layer_costs

        model = build_model(
            loaded.image.height, loaded.image.width, len(loaded.classes), loaded.model, loaded.train.seed
        )
        costs, images = layer_costs(model), batch or loaded.train.batch_size
        table = Table("layer", "kind", "output", "parameters", "million MAC", box=None)
        for cost in costs:
            shape = "x".join(map(str, cost.output_shape))
            table.add_row(
                cost.name, cost.kind, shape, f"{cost.parameters:,}", f"{cost.multiply_accumulates / 1e6:,.1f}"
            )
        console.print(table)
        console.print(
            f"{model.count_params():,} parameters, "
            f"{sum(cost.multiply_accumulates for cost in costs) / 1e9:.2f} GMAC an image, "
            f"{activation_bytes(costs, images) / 2**20:,.0f} MiB of activations for a training step of {images} images"
        )
        if diagram is not None:
            draw_diagram(loaded, diagram)
            console.print(f"diagram: {diagram}")


def run_doctor() -> None:
    """`flexunet doctor`."""
    from pipeline.doctor import check_machine

    with captured_output(NO_LOG) as console:
        findings = check_machine()
        table = Table("", "what", "found", "what to do", box=None)
        for finding in findings:
            table.add_row("ok" if finding.good else "bad", finding.what, finding.found, finding.repair)
        console.print(table)
    bad = [finding for finding in findings if not finding.good]
    if bad:
        raise UserError("\n".join(f"{f.what}: {f.found}: {f.repair}" for f in bad))


def _log_file(root: Path) -> Path:
    return root / "logs" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.log"


def _check_data(data: Path, config: Config, training: bool = True) -> str:
    """Refuses records that the config does not fit; returns a warning, or nothing.

    Records made elsewhere have no manifest; Transform checks every mask's colours all the same.
    """
    from dataset.manifest import newest_spans

    spans = newest_spans(data, config.dataset.spans)
    if spans is None:
        return f"{data}: records without dataset.json: nothing is known of near-duplicates across their splits"
    for span in spans:
        _check_classes(span, data, config)
    images = sum(span["splits"]["train"]["images"] for span in spans)
    if training and config.image.fit != "tile" and images < config.train.batch_size:
        raise UserError(f"train.batch_size is {config.train.batch_size}, expected at most the {images} training images")
    leaking = sum(span["leaking_groups"] for span in spans)
    return f"{leaking} groups are in more than one split of {data}: the scores will flatter" if leaking else ""


def _check_classes(span: dict[str, Any], data: Path, config: Config) -> None:
    recorded = [(c["name"], tuple(c["color"])) for c in span["classes"]]
    wanted = [(c.name, c.color) for c in config.classes]
    ignored = config.records.ignore_color
    if (recorded, span["ignore_color"]) != (wanted, list(ignored) if ignored else None):
        raise UserError(
            f"{data}: span {span['span']} has the classes {recorded} and the ignore colour {span['ignore_color']}, "
            f"expected {wanted} and {ignored} as in the config: ingest again"
        )


def _generate(surfaces: Path, config: Config, console: Console) -> None:
    from dataset.synthetic import write_surfaces

    if not surfaces.is_dir():
        console.print(f"generating {DEMO_IMAGES} steel surfaces of {DEMO_SIZE}x{DEMO_SIZE} in {surfaces}")
        aside = surfaces.with_name(f".{surfaces.name}.incomplete")
        write_surfaces(aside, DEMO_IMAGES, DEMO_SIZE, [c.color for c in config.classes], DEMO_SEED)
        aside.rename(surfaces)


def _ingest(source: Path, out: Path, config: Config, console: Console, **options: Any) -> None:
    from dataset.ingest import ingest
    from dataset.picture import PICTURE

    with _bars(console) as progress:
        done = ingest(source, out, config, progress=progress, **options)
    manifest = done.manifest
    console.print(f"{done.layout.description}")
    for key, what in (("skipped", "skipped"), ("left_out", "left out")):
        if manifest[key]:
            console.print(f"{len(manifest[key])} {what}:")
        for line in manifest[key]:
            console.print(f"{what}: {line}")
    for pair in manifest["duplicates"]["different_masks"]:
        console.print(
            f"warning: {' and '.join(pair['images'])} are one image, their masks agree by {pair['agreement']:.1%}"
        )
    table = Table("split", "images", "groups", *(c.name for c in config.classes), box=None)
    for split, facts in manifest["splits"].items():
        total = sum(facts["pixels"].values()) or 1
        shares = [f"{facts['pixels'][c.name] / total:.2%}" for c in config.classes]
        table.add_row(split, str(facts["images"]), str(facts["groups"]), *shares)
    console.print(table)
    if manifest["leaking_groups"]:
        console.print(f"warning: {manifest['leaking_groups']} groups are in more than one split: scores will flatter")
    if done.version is None:
        console.print("checked; nothing was written")
    else:
        console.print(f"records {'unchanged' if done.unchanged else 'written'}: {done.version}")
        console.print(f"what they look like: {out / PICTURE}")


def _run(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str],
    console: Console,
    log: Path,
    accept_refused: str = "",
) -> None:
    from components.report import DETAILS_FILE
    from pipeline import local

    try:
        metrics = local.run(config, data, root, beam_args, lambda result: _print_node(result, console), accept_refused)
    except Exception as error:
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        what = str(error) if isinstance(error, NodeFailed) else f"the run failed: {type(error).__name__}: {error}"
        raise NodeFailed(f"{what}\nfull log: {log}") from error
    details = json.loads((root / "report" / DETAILS_FILE).read_text(encoding="utf-8"))
    _print_scores(metrics, details, console)
    _print_checks(metrics, details, console)
    _print_verdict(metrics, root, console, accept_refused)


def _print_node(result: "NodeResult", console: Console) -> None:
    console.print(f"{result.node:<17} {'cached' if result.cached else 'done':<7} {result.seconds:6.1f} s")


def _print_scores(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
    table = Table("class", "Dice", "IoU", "precision", "recall", "pixels", box=None)
    for name, row in metrics["classes"].items():
        values = [_four(row[key]) for key in ("dice", "iou", "precision", "recall")]
        table.add_row(name, *values, "-" if row["pixels"] is None else f"{row['pixels']:,.0f}")
    console.print(table)
    ends = metrics["foreground_dice_interval"]
    interval = f", 95 % interval {_four(ends[0])} to {_four(ends[1])}" if ends else ""
    console.print(
        f"foreground Dice {_four(metrics['foreground_dice'])}{interval} on {metrics['examples']} test images "
        f"(pixel accuracy {_four(metrics['pixel_accuracy'])}, the seed's Dice {_four(metrics['seed_dice'])})"
    )
    found, alarms = metrics["defects"]["found_share"], metrics["defects"]["false_alarm_share"]
    console.print(f"defects found {_four(found)}; false alarms on images without defect {_four(alarms)}")
    for warning in details["warnings"]:
        console.print(f"warning: {warning}")


def _print_checks(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
    for check in metrics["gate"]:
        console.print(f"{'passed' if check['passed'] else 'FAILED'}: {check['words']}")
    if not metrics["blessed"] and details["images"]["worst"]:
        worst = ", ".join(f"{image['id']} (Dice {image['dice']:.4f})" for image in details["images"]["worst"])
        console.print(f"worst images: {worst}")


def _print_verdict(metrics: dict[str, Any], root: Path, console: Console, accepted_refused: str) -> None:
    from pipeline import local

    console.print(f"report: {root / 'report'}")
    if not metrics["blessed"] and not accepted_refused:
        raise ModelRefused(f"the gate refused the model, nothing was pushed: {_failures(metrics)}")
    verdict = local.serving_verdict(root)
    if not verdict["blessed"]:
        problems = "; ".join(verdict["problems"])
        raise ServingRefused(f"the serving validator refused the model, nothing was pushed: {problems}")
    if verdict["rolled_back"] is not None:
        version = verdict["rolled_back"]
        console.print(f"accepted, but this very model was rolled back as version {version}: not pushed again")
        console.print(f"to bring it back: flexunet rollback --root {root} --to {version}")
        return
    how = "accepted" if metrics["blessed"] else "REFUSED by the gate and pushed all the same"
    console.print(f"{how}; the model is version {metrics['pushed_version']}: {root / 'serving_model'}")


def _failures(metrics: dict[str, Any]) -> str:
    return "; ".join(check["words"] for check in metrics["gate"] if not check["passed"])


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str, int], Callable[..., None]]]:
    """Progress bars with rate and time left; nothing where the output is no terminal.

    What starts a bar gives the function that moves it one step and may change its words.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def start(what: str, steps: int) -> Callable[..., None]:
            task = progress.add_task(what, total=steps)
            return lambda now=what: progress.update(task, advance=1, description=now)

        yield start
