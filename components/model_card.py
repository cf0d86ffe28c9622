"""The card of a pushed version, `assets.extra/model_card.md` and `.html`: the sections of Mitchell et al. 2019, filled
with what was measured.

Model Cards for Model Reporting, arXiv 1810.03993. The head of the text is the metadata that Hugging Face's tools read.
What only people can tell comes from `[card]`, and what nobody told is said to be so.
"""

import html
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from components import templates
from flexunet.core.config.card import CardConfig
from flexunet.core.features import SPLIT_TEST
from flexunet.core.files import JsonObject
from flexunet.core.libraries import LIBRARIES
from flexunet.core.results.data import SplitFacts
from flexunet.core.results.lineage import DataOrigin, Provenance
from flexunet.core.results.metrics import Baseline, Details, Scores
from flexunet.core.results.operating import OperatingPoint
from flexunet.core.results.training import TrainingFacts

_TEXT: Final = "model_card.md.j2"
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()<>#|~&!])")
# One column, readable without any other file; and nothing in it is run, whatever a name holds.
_PAGE: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}}
pre{{background:#f4f4f4;padding:.6rem;overflow-x:auto}}</style></head>
<body>
{body}</body></html>
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
      card: what people said.
      classes: names, by id.
      scores, details: on `test`, as in the report.
      baseline: the model that was served before; None for the first.
      splits: images and labelled pixels, by split; empty where they are not known.
      provenance: of the version, without its number.
      config: what the model was trained with, as its `config.json` has it.
      training: what Trainer noted.
      point: the operating point; None for a model without one.
      sha256: of the model's files.
    """

    card: CardConfig
    classes: Sequence[str]
    scores: Scores
    details: Details
    baseline: Baseline | None
    splits: Mapping[str, SplitFacts]
    provenance: Provenance
    config: JsonObject
    training: TrainingFacts
    point: OperatingPoint | None
    sha256: str

    @property
    def name(self) -> str:
        """As people call it, or after its classes."""
        return self.card.name or f"Segmentation of {', '.join(self.classes[1:])}"

    @property
    def data(self) -> DataOrigin:
        """The records, as far as they are known."""
        return self.provenance.get("data", {})


def card_text(facts: CardFacts) -> str:
    """The card in Markdown, headed by metadata in YAML."""
    # It is text and no HTML: `plain` takes the meaning from what others wrote.
    made = Environment(  # noqa: S701
        loader=PackageLoader(templates.__name__, ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(plain=_plain, told=_told, score=_score, count=_count, interval=_interval, flat=_flat)
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in (*LIBRARIES, "tfx"))
    return made.get_template(_TEXT).render(
        **vars(facts),
        name=facts.name,
        span=facts.data.get("span") or "unknown",
        fingerprint=facts.data.get("fingerprint"),
        metadata=yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True),
        versions=f"Python {platform.python_version()}, {libraries}",
    )


def card_page(text: str, name: str) -> str:
    """The card as one HTML file, of its Markdown."""
    _, body = text.split("\n---\n", 1)
    # Tags in the Markdown are shown, not obeyed.
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(body)
    return _PAGE.format(title=html.escape(name), body=rendered)


def _metadata(facts: CardFacts) -> JsonObject:
    """As https://huggingface.co/docs/hub/model-cards has it; results only where they are defined."""
    measured = (
        ("dice", "Dice, mean over the defect classes", facts.scores["foreground_dice"]),
        ("mean_iou", "IoU, mean over the defect classes", facts.scores["mean_iou"]),
    )
    results = [
        {"type": kind, "name": name, "value": round(value, 6)} for kind, name, value in measured if value is not None
    ]
    index = {
        "name": facts.name,
        "results": [
            {
                "task": {"type": "image-segmentation"},
                "dataset": {"type": "records", "name": f"span {facts.data.get('span')}", "split": SPLIT_TEST},
                "metrics": results,
            }
        ],
    }
    return {
        **({"license": facts.card.license} if facts.card.license else {}),
        "library_name": "tensorflow",
        "pipeline_tag": "image-segmentation",
        "tags": ["flexunet", "tfx", "u-net"],
        **({"model-index": [index]} if results else {}),
    }


def _flat(words: str | None) -> str:
    return " ".join((words or "unknown").split())


def _plain(words: str) -> str:
    """A text that means nothing in Markdown, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))


def _told(words: str, key: str) -> str:
    return words.strip() or f"*nobody said: set `card.{key}`*"


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "unknown"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "undefined"
