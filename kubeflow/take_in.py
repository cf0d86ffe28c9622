"""The first container of `cluster/schedule`: photos that somebody left in a folder become the next span of the records.

The folder is claimed by one rename, into a place that is named after the span, and stays there: a killed step goes on
with what it claimed, and photos that are refused wait there to be mended, while new ones can come in.
"""

from pathlib import Path

import click

from flexunet.cli.ingest import ingest_and_show
from flexunet.core.config.load import load_config
from flexunet.dataset.manifest import MANIFEST, read_manifest
from kubeflow import entry

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--config", required=True, help="TOML file, or the name of a preset.")
@click.option("--incoming", required=True, type=_FOLDER, help="Where new photos and masks are left.")
@click.option("--kept", required=True, type=_FOLDER, help="Where they stay, as span-N; on the same volume.")
@click.option("--records", required=True, type=_FOLDER, help="OUT of `flexunet ingest`.")
def main(config: str, incoming: Path, kept: Path, records: Path) -> None:
    """Ingests new photos as the next span; without any, does nothing.

    What is wrong with them is told, and no records are written.
    """
    loaded, console = load_config(config), entry.console()
    span = _next_span(records)
    photos = _claimed(incoming, kept / f"span-{span}")
    if photos is None:
        console.print(f"{incoming}: nothing new")
        return
    ingest_and_show(photos, records, loaded, console, span=span)


def _next_span(records: Path) -> int:
    known = read_manifest(records)["spans"] if (records / MANIFEST).exists() else []
    return max((described["span"] for described in known), default=0) + 1


def _claimed(incoming: Path, claimed: Path) -> Path | None:
    """The folder of the photos, which an earlier attempt may have claimed; None where there is nothing new."""
    if claimed.is_dir():
        return claimed
    if not incoming.is_dir() or not any(incoming.iterdir()):
        return None
    claimed.parent.mkdir(parents=True, exist_ok=True)
    return incoming.rename(claimed)


if __name__ == "__main__":
    entry.run(main)
