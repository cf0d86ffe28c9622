"""Two versions on the same images: what the stable one and the canary say of what is served, beside the requests.

The process that looks at images asks both again of a share of them, by their labels; no caller waits for it. Where
there is no canary, it asks again after a minute. Labels move between two questions, so a pair says which versions
answered, and gRPC is what is spoken: REST does not tell.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from flexunet.core.results.live import FORMAT, Compared, ComparedClass
from flexunet.live.observe import SHOWN
from flexunet.serving.client import Prediction, predict_image
from flexunet.serving.grpc_model import GrpcModel
from flexunet.serving.model_config import Named
from flexunet.serving.transport import NotServedError, Options, UnknownLabelError
from flexunet.serving.wire import CANARY, STABLE

_AGAIN_SECONDS: Final = 60.0
_DEADLINE: Final = 30.0
# How the hours count it.
UNANSWERED: Final = "not compared: no answer"
_SECONDS: Final = ("seconds", "canary_seconds")


@dataclass(frozen=True)
class Pair:
    """An image that both were asked of.

    Attributes:
      time: in seconds since 1970.
      stable, canary: the versions that answered; 0: the answer did not tell.
      valid, canary_valid: whether there was an answer; without both the numbers below are None or empty.
      seconds, canary_seconds: from the request to the answer.
      same: share of the pixels that both give the same class.
      confidence, canary_confidence: mean over the pixels.
      shares: of the pixels, by `stable/CLASS` and `canary/CLASS`.
    """

    time: float
    stable: int
    canary: int
    valid: bool
    canary_valid: bool
    seconds: float
    canary_seconds: float
    same: float | None = None
    confidence: float | None = None
    canary_confidence: float | None = None
    shares: dict[str, float] = field(default_factory=dict)


_PAIR: Final = TypeAdapter(Pair)


class NoAnswerError(Exception):
    """A version that is there, and gave no answer."""


class Comparer:
    """Asks both versions of an image, of the server whose gRPC is at `address`, `host:port`."""

    def __init__(self, address: str) -> None:
        self._stable, self._canary = (GrpcModel(address, False, _options(label)) for label in (STABLE, CANARY))
        self._until = 0.0

    def compare(self, encoded: bytes, moment: float) -> Pair | None:
        """None where one of the two is not there, and for a minute after that.

        Raises:
          NoAnswerError: both are there, and one failed, or answers otherwise than models of this project.
        """
        if time.monotonic() < self._until:
            return None
        try:
            # First the one that is often missing.
            canary, stable = (predict_image(model, encoded) for model in (self._canary, self._stable))
            return pair_of(stable, canary, moment, (self._stable.version or 0, self._canary.version or 0))
        except (UnknownLabelError, NotServedError):
            self._until = time.monotonic() + _AGAIN_SECONDS
            return None
        # Other people's answers can be anything.
        except Exception as error:
            raise NoAnswerError from error


def _options(label: str) -> Options:
    return Options(label=label, deadline=_DEADLINE, attempts=1, unreachable_attempts=1)


def pair_of(stable: Prediction, canary: Prediction, moment: float, versions: tuple[int, int]) -> Pair:
    """Two answers to one image in numbers; `versions`: which gave them."""
    pair = Pair(moment, *versions, stable.valid, canary.valid, stable.seconds, canary.seconds)
    if not (stable.valid and canary.valid) or stable.class_ids.shape != canary.class_ids.shape:
        return pair
    shares = {
        f"{label}/{name}": float(share)
        for label, answer in ((STABLE, stable), (CANARY, canary))
        for name, share in [*zip(_named(answer), answer.class_fractions, strict=True)][1:]
    }
    return replace(
        pair,
        same=float(np.mean(stable.class_ids == canary.class_ids)),
        confidence=stable.confidence,
        canary_confidence=canary.confidence,
        shares=shares,
    )


def _named(answer: Prediction) -> Sequence[str]:
    """A model of before 0.2.0 tells no names: then the classes have numbers."""
    return answer.class_names or [str(class_id) for class_id in range(len(answer.class_fractions))]


def write_pair(path: Path, pair: Pair) -> None:
    """Adds a line to the pairs of an hour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        # First: a line that a killed process broke off ends there.
        file.write(b"\n" + _PAIR.dump_json(pair))


def read_pairs(path: Path) -> list[Pair]:
    """What `write_pair` wrote; none where there is no file. A line that breaks off is left out."""
    found: list[Pair] = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            found.append(_PAIR.validate_json(line))
        except ValidationError:
            continue
    return found


def compared(named: Named, pairs: Sequence[Pair], not_answered: int = 0) -> Compared:
    """The document: how the two versions answered the same images; `not_answered`: how often one of them did not.

    Pairs of other versions, and of versions that nobody knows, are counted and left out.
    """
    theirs = [pair for pair in pairs if (pair.stable, pair.canary) == (named.stable, named.canary)]
    untold = sum(0 in (pair.stable, pair.canary) for pair in pairs)
    both = [pair for pair in theirs if pair.same is not None]
    same = [pair.same for pair in both if pair.same is not None]
    confidence = [
        [value for pair in both if (value := getattr(pair, key)) is not None]
        for key in ("confidence", "canary_confidence")
    ]
    return {
        "format": FORMAT,
        "stable": named.stable,
        "canary": named.canary,
        "images": len(theirs),
        "other_versions": len(pairs) - len(theirs) - untold,
        "untold_versions": untold,
        "not_answered": not_answered,
        "refused": [sum(not pair.valid for pair in theirs), sum(not pair.canary_valid for pair in theirs)],
        "same_pixels": float(np.mean(same)) if same else None,
        "least_same_pixels": min(same, default=None),
        "confidence": [float(np.mean(values)) for values in confidence] if both else None,
        "median_seconds": [float(np.median([getattr(pair, key) for pair in both])) for key in _SECONDS]
        if both
        else None,
        "classes": {name: _class(name, both) for name in _names(both)},
    }


def _names(pairs: Iterable[Pair]) -> list[str]:
    return sorted({key.partition("/")[2] for pair in pairs for key in pair.shares})


def _class(name: str, pairs: Sequence[Pair]) -> ComparedClass:
    shown = np.array(
        [[pair.shares.get(f"{label}/{name}", 0.0) > SHOWN for label in (STABLE, CANARY)] for pair in pairs]
    )
    stable, canary = shown[:, 0], shown[:, 1]
    return {
        "stable": int(stable.sum()),
        "canary": int(canary.sum()),
        "only_stable": int((stable & ~canary).sum()),
        "only_canary": int((canary & ~stable).sum()),
    }


def compared_words(found: Compared) -> list[str]:
    """A few lines for people."""
    missing, refused = found["not_answered"], found["refused"]
    notes = [f"{missing:,} times one of the two gave no answer at all: see the server's log"] if missing else []
    if found["other_versions"]:
        notes.append(f"asked of other versions before or meanwhile, and left out: {found['other_versions']:,}")
    if found["untold_versions"]:
        notes.append(
            f"answered without telling a version, and left out: {found['untold_versions']:,}; let `flexunet live watch "
            "--server` name TensorFlow Serving itself, which tells it"
        )
    if found["same_pixels"] is None or found["confidence"] is None or found["median_seconds"] is None:
        none = "no image was compared yet: `flexunet live watch --compare SHARE` asks both versions of a share of them"
        if found["images"]:
            none = f"{found['images']:,} images asked of both, none that both answered with masks of one size"
            none += f": refused {refused[0]}, canary {refused[1]}"
        return [none, *notes]
    confidence, seconds = found["confidence"], found["median_seconds"]
    lines = [
        f"{found['images']:,} images asked of both: {found['same_pixels']:.2%} of the pixels are the same class, "
        f"{found['least_same_pixels']:.1%} in the image that differs most",
        f"confidence {confidence[0]:.4f}, canary {confidence[1]:.4f}; median answer {1000 * seconds[0]:.0f} ms, canary "
        f"{1000 * seconds[1]:.0f} ms; refused {refused[0]}, canary {refused[1]}",
        *notes,
    ]
    return lines + [
        f"{name}: shown in {row['stable']}, canary {row['canary']}; only by one of them {row['only_stable']} and "
        f"{row['only_canary']}"
        for name, row in found["classes"].items()
    ]
