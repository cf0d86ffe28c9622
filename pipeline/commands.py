"""What the commands do and print; pipeline/cli.py only reads their options."""

import datetime
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from pipeline.config import Config, load_config
from pipeline.console import NO_LOG, captured_output, print_result
from pipeline.errors import ModelRefused, NodeFailed, ServingRefused, UserError
from pipeline.lock import locked
from pipeline.show import (
    bars,
    busy,
    failures,
    make_table,
    print_checks,
    print_ingested,
    print_left_out,
    print_scores,
    print_warning,
    quantile_words,
    quantiles,
)
from pipeline.small_files import read_json

Refusal = ModelRefused | ServingRefused

DEMO_IMAGES: Final = 480
DEMO_SIZE: Final = 128
DEMO_SEED: Final = 137


def run_demo(root: Path, overrides: Sequence[str]) -> None:
    """`flexunet demo`: generates surfaces, ingests them and runs the pipeline."""
    config = load_config("demo", overrides)
    surfaces, records = root / "data" / "surfaces", root / "data" / "records"
    log = _log_file(root)
    with locked(root), captured_output(log) as console:
        _generate(surfaces, config, console)
        _ingest(surfaces, records, config, console)
        metrics, refusal = _run(config, records, root, (), console, log)
    _conclude(metrics, refusal)


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
        found = _ingest(source, out, loaded, console, **options)
    print_result(found)


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
    warning = check_data(data, loaded)
    log = _log_file(root)
    with locked(root), captured_output(log) as console:
        if warning:
            print_warning(warning, console)
        metrics, refusal = _run(loaded, data, root, beam_args, console, log, accept_refused)
    _conclude(metrics, refusal)


def run_evaluate(
    model: Path, data: Path, config: str, overrides: Sequence[str], baseline: Path | None, out: Path | None
) -> None:
    """`flexunet evaluate`."""
    from serving.exported import model_directory

    loaded = load_config(config, overrides)
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
    print_result(metrics)
    if not metrics["blessed"]:
        raise ModelRefused(f"the gate refuses the model: {failures(metrics)}")


def run_predict(
    target: str, images: Sequence[Path], out: Path, config: str | None, tiled: bool, concurrency: int, **options: Any
) -> None:
    """`flexunet predict`."""
    from serving.predict import Job, image_files, predict_files
    from serving.transport import Options, connect

    (files, left_out), shown = image_files(images, out), _shown_config(target, config)
    seconds: list[float] = []
    with captured_output(NO_LOG) as console, connect(target, Options(**options)) as model:
        with bars(console) as progress:
            advance = progress("predicting", len(files))

            def step(taken: float | None) -> None:
                seconds.extend([] if taken is None else [taken])
                advance(f"predicting, {quantile_words(seconds)}")

            failed = predict_files(Job(model, shown, tiled, concurrency), files, out, step)
        done = len(files) - len(failed)
        console.print(
            f"{done} of {len(files)} images: masks, overlays and areas.csv in {out}; {quantile_words(seconds)}"
        )
        print_left_out(left_out, len(files), console)
    found = {"images": done, "out": out, "left_out": [asdict(entry) for entry in left_out]}
    print_result({**found, **quantiles(seconds), "failed": [asdict(f) for f in failed]})
    if failed:
        raise UserError("\n".join(f"{f.image}: no prediction ({f.reason})" for f in failed))


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
    print_result({"version": int(done.version.name), "restored": done.restored, "withdrawn": done.withdrawn})


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
        with busy(console, "loading TensorFlow"):
            from trainer_module.summary import draw_diagram, model_cost
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


def run_doctor() -> None:
    """`flexunet doctor`."""
    from pipeline.doctor import check_machine

    with captured_output(NO_LOG) as console:
        with busy(console, "looking"):
            findings = check_machine()
        table = make_table(console, "", "what", "found", "what to do")
        for finding in findings:
            mark = Text("ok", "green") if finding.good else Text("bad", "bold red")
            table.add_row(mark, finding.what, finding.found, finding.repair)
        console.print(table)
    print_result([asdict(finding) for finding in findings])
    bad = [finding for finding in findings if not finding.good]
    if bad:
        raise UserError("\n".join(f"{f.what}: {f.found}: {f.repair}" for f in bad))


def _log_file(root: Path) -> Path:
    return root / "logs" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.log"


def check_data(data: Path, config: Config, training: bool = True, newest: int | None = None) -> str:
    """Refuses records that the config does not fit; returns a warning, or nothing.

    `newest` is the newest span to read, where that is not the newest there is.

    Records made elsewhere have no manifest; Transform checks every mask's colours all the same.
    """
    from dataset.manifest import newest_spans

    spans = newest_spans(data, config.dataset.spans, newest)
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
        with bars(console) as progress:
            step = progress("generating", DEMO_IMAGES)
            write_surfaces(aside, DEMO_IMAGES, DEMO_SIZE, [c.color for c in config.classes], DEMO_SEED, step)
        aside.rename(surfaces)


def _ingest(source: Path, out: Path, config: Config, console: Console, **options: Any) -> dict[str, Any]:
    """Returns what the manifest says of the span, and where its version lies; None if nothing was written."""
    from dataset.ingest import ingest
    from dataset.picture import PICTURE

    with bars(console) as progress:
        done = ingest(source, out, config, progress=progress, **options)
    print_ingested(done, [c.name for c in config.classes], console)
    if done.version is not None:
        console.print(f"what they look like: {out / PICTURE}")
    return {**done.manifest, "path": done.version, "unchanged": done.unchanged}


def _run(
    config: Config,
    data: Path,
    root: Path,
    beam_args: Sequence[str],
    console: Console,
    log: Path,
    accept_refused: str = "",
) -> tuple[dict[str, Any], Refusal | None]:
    """Shows the nodes and what came out; returns what metrics.json holds, and the refusal, if there is one."""
    with busy(console, "loading TFX"):
        from pipeline import local
        from pipeline.board import Board
    try:
        with Board(console) as board:
            metrics = local.run(config, data, root, beam_args, board.ended, accept_refused, board.started)
    except Exception as error:
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        what = str(error) if isinstance(error, NodeFailed) else f"the run failed: {type(error).__name__}: {error}"
        raise NodeFailed(f"{what}\nfull log: {log}") from error
    return metrics, print_outcome(metrics, root, console, accept_refused)


def print_outcome(metrics: dict[str, Any], root: Path, console: Console, accept_refused: str) -> Refusal | None:
    """Scores, the gate's words and the verdict of the run whose report lies in `root`; the refusal, if there is one."""
    from pipeline.local import serving_verdict
    from reporting.files import DETAILS_FILE

    details, verdict = read_json(root / "report" / DETAILS_FILE), serving_verdict(root)
    print_scores(metrics, details, console)
    print_checks(metrics, details, console)
    console.print(f"report: {root / 'report'}")
    refusal = _refusal(metrics, verdict, accept_refused)
    if refusal is None:
        _print_accepted(metrics, verdict["rolled_back"], root, console)
    return refusal


def _print_accepted(metrics: dict[str, Any], rolled_back: int | None, root: Path, console: Console) -> None:
    if rolled_back is not None:
        console.print(f"accepted, but this very model was rolled back as version {rolled_back}: not pushed again")
        console.print(f"to bring it back: flexunet rollback --root {root} --to {rolled_back}")
        return
    how = "accepted" if metrics["blessed"] else "REFUSED by the gate and pushed all the same"
    console.print(f"{how}; the model is version {metrics['pushed_version']}: {root / 'serving_model'}")


def _conclude(metrics: dict[str, Any], refusal: Refusal | None) -> None:
    """Prints the result for scripts; a refusal ends the command after it."""
    print_result(metrics)
    if refusal:
        raise refusal


def _refusal(metrics: dict[str, Any], verdict: dict[str, Any], accept_refused: str) -> Refusal | None:
    if not metrics["blessed"] and not accept_refused:
        return ModelRefused(f"{ModelRefused.WORDS}, nothing was pushed: {failures(metrics)}")
    if not verdict["blessed"]:
        problems = "; ".join(verdict["problems"])
        return ServingRefused(f"{ServingRefused.WORDS}, nothing was pushed: {problems}")
    return None
