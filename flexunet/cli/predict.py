"""`flexunet predict`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import click

from flexunet.cli.command import Command
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, FILE, PATH, VERIFY
from flexunet.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from flexunet.core.config.whole import Config
    from flexunet.serving.exported import ServedConfig
    from flexunet.serving.predict import Failure, Job, Result


class CallOptions(TypedDict):
    """How a server is called: see `flexunet.serving.transport.Options`."""

    deadline: float
    model_name: str
    version: int | None
    certificate_authority: Path | None
    certificate: Path | None
    key: Path | None


_WRITTEN: Final = {"png": "masks, overlays", "coco": "annotations.json", "labelme": "a JSON file for each"}


@click.command(cls=Command, interrupted="masks that were written stay, areas.csv is not whole")
@click.argument("model", metavar="MODEL_DIR_or_URL")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_DIR...")
@click.option("--out", required=True, type=PATH, help="Folder for masks, overlays, areas.csv.")
@click.option("--config", metavar="C", help="Config with classes and colours; needed for a URL.")
@click.option(
    "--format",
    "kind",
    default="png",
    show_default=True,
    type=click.Choice(list(_WRITTEN)),
    help="Masks and overlays, or annotations that labelling tools load.",
)
@click.option("--tiled", is_flag=True, help="Cuts large images into overlapping tiles of the model's size.")
@click.option(
    "--concurrency",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Number of images that are predicted at once.",
)
@click.option(
    "--deadline",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds to wait for an answer.",
)
@click.option(
    "--fallback", metavar="URL", help="Asked where the URL cannot be reached: the server's, if that is a watch's."
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Asks the version labelled canary for so many of the images, and the stable one for all others.",
)
@click.option("--model-name", default="flexunet", show_default=True, help="Name of the model on the server.")
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Version of the model on the server; else the newest."
)
@click.option(
    "--ca",
    "certificate_authority",
    type=FILE,
    help="PEM file of the authority, for grpcs and https; else the system's.",
)
@click.option("--cert", "certificate", type=FILE, help="PEM file of this client's certificate.")
@click.option("--key", type=FILE, help="PEM file of the client certificate's key.")
@VERIFY
@AS_JSON
def predict(
    model: str,
    images: Sequence[Path],
    out: Path,
    config: str | None,
    kind: str,
    tiled: bool,
    concurrency: int,
    fallback: str | None,
    canary: float | None,
    public_key: Path | None,
    **options: Unpack[CallOptions],
) -> None:
    """Writes a coloured mask, an overlay and areas for each image; asks a model folder, or a server by its URL.

    Examples:
      flexunet predict runs/mine/serving_model photos --out predictions
      flexunet predict grpc://localhost:8500 photos --out predictions --config mine.toml
      flexunet predict runs/mine/serving_model wide-strip.png --out predictions --tiled
      flexunet predict runs/mine/serving_model new-photos --out to-correct --format coco
    """
    from flexunet.cli.tables import print_left_out, quantile_words, quantiles
    from flexunet.serving.client import Options, connect
    from flexunet.serving.predict import Job, image_files

    # Asked once: what is verified is what is used, whatever is pushed meanwhile.
    model = str(_verified(model, public_key)) if public_key else model
    (files, left_out), shown = image_files(images, out), _shown_config(model, config)
    with captured_output(NO_LOG) as console, connect(model, Options(**options), fallback, canary) as connected:
        results, failed = _predicted(Job(connected, shown, tiled, concurrency), files, out, kind, console)
        seconds = [result.seconds for result in results]
        console.print(
            f"{len(results)} of {len(files)} images: {_WRITTEN[kind]} and areas.csv in {out}; {quantile_words(seconds)}"
        )
        print_left_out(left_out, len(files), console)
    told = {"results": results, "left_out": left_out, "failed": failed}
    lists = {name: [asdict(entry) for entry in entries] for name, entries in told.items()}
    print_result({"images": len(results), "out": out, **quantiles(seconds), **lists})
    if failed:
        raise UserError("\n".join(f"{f.image}: no prediction ({f.reason})" for f in failed))


def _verified(target: str, public_key: Path) -> Path:
    """The version that is served from a folder.

    Raises:
      UserError: the key did not sign it; or it is a server, which must have asked itself.
    """
    from flexunet.serving.signing import verify
    from flexunet.serving.versions import model_directory

    if "://" in target:
        raise UserError(f"{target}: --verify reads a model's folder, expected one: servers verify before they serve")
    version = model_directory(Path(target))
    verify(version, public_key)
    return version


def _predicted(
    job: "Job", files: Sequence[Path], out: Path, kind: str, console: "Console"
) -> "tuple[list[Result], list[Failure]]":
    """What was predicted, and what was not; a bar tells how long answers take."""
    from flexunet.cli.tables import bars, quantile_words
    from flexunet.serving.predict import predict_files

    results: list[Result] = []
    with bars(console) as progress:
        advance = progress("predicting", len(files))

        def step(taken: float | None) -> None:
            advance(f"predicting, {quantile_words([result.seconds for result in results])}")

        failed = predict_files(job, files, out, step, results.append, kind)
    return results, failed


def _shown_config(target: str, config: str | None) -> "ServedConfig | Config":
    """Classes and colours: a folder tells them, a server only its classes' names.

    Raises:
      UserError: no config for a server, or one with other classes than the folder's.
    """
    from flexunet.core.config.load import load_config
    from flexunet.serving.exported import exported_config
    from flexunet.serving.versions import model_directory

    given = load_config(config) if config is not None else None
    if "://" not in target:
        own = exported_config(model_directory(Path(target)))
        if given is not None and given.classes != own.classes:
            spelled = [
                ", ".join(f"{c.name} {list(c.color)}" for c in classes) for classes in (own.classes, given.classes)
            ]
            raise UserError(
                f"{target}: its classes are {spelled[0]}; those of {config} are {spelled[1]}: leave --config out"
            )
        return own
    if given is None:
        raise UserError(f"{target}: a server tells no colours; add --config, that of the training")
    return given
