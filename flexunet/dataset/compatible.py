"""Whether ingested records, and what else a training reads, are what a configuration expects."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from flexunet.core.config.whole import Config
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.errors import UserError
from flexunet.core.results.dataset import SpanEntry
from flexunet.dataset.manifest import newest_spans


def check_data(data: Path, config: Config, training: bool = True, newest: int | None = None) -> str:
    """Refuses records that the config does not fit; returns a warning, or nothing.

    `training` also wants enough images for a batch, and the file of weights that an encoder begins with.

    `newest` is the newest span to read, where that is not the newest there is.

    Records made elsewhere have no manifest; Transform checks every mask's colours all the same.
    """
    if training:
        encoder_digest(config.train)
    spans = newest_spans(data, config.dataset.span_limit, newest)
    if spans is None:
        return f"{data}: records without dataset.json: nothing is known of near-duplicates across their splits"
    for span in spans:
        _check_classes(span, data, config)
    images = sum(span["splits"]["train"]["images"] for span in spans)
    if training and config.image.fit != "tile" and images < config.train.batch_size:
        raise UserError(f"train.batch_size is {config.train.batch_size}, expected at most the {images} training images")
    return "; ".join([*_leaks(spans, data), *(_other_sizes(spans, data, config) if training else ())])


def _leaks(spans: Sequence[SpanEntry], data: Path) -> Iterator[str]:
    leaking = sum(span["leaking_groups"] for span in spans)
    if leaking:
        yield f"{leaking} groups are in more than one split of {data}: the scores will flatter"


def _other_sizes(spans: Sequence[SpanEntry], data: Path, config: Config) -> Iterator[str]:
    """Which defects vanish at the model's size was counted for the size of the ingest's config."""
    now = {"height": config.image.height, "width": config.image.width, "fit": config.image.fit}
    other = [span["model_size"] for span in spans if span.get("model_size", now) != now]
    if other:
        yield (
            "{data}: defects that vanish at the model's size were counted for {height}x{width} ({fit}), not for this "
            "config's: ingest --check tells".format(data=data, **other[0])
        )


def _check_classes(span: SpanEntry, data: Path, config: Config) -> None:
    recorded = [(c["name"], tuple(c["color"])) for c in span["classes"]]
    wanted = [(c.name, c.color) for c in config.classes]
    ignored = config.records.ignore_color
    if (recorded, span["ignore_color"]) != (wanted, list(ignored) if ignored else None):
        theirs, ours = _spelled(recorded, span["ignore_color"]), _spelled(wanted, ignored)
        raise UserError(
            f"{data}: span {span['span']} has the classes {theirs}; expected those of the config, {ours}: name the "
            "config that it was ingested with, or ingest again"
        )


def _spelled(classes: Sequence[tuple[str, Sequence[int]]], ignored: Sequence[int] | None) -> str:
    named = ", ".join(f"{name} {list(color)}" for name, color in classes)
    return f"{named}, unlabelled {list(ignored)}" if ignored else named
