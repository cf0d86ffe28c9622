"""What a run or a measurement came to, on the terminal: scores, the gate's checks, the verdict."""

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from flexunet.cli.command import spelled
from flexunet.cli.console import print_result
from flexunet.cli.tables import four_digits, make_table, print_warning
from flexunet.core.errors import ModelRefused, ServingRefused
from flexunet.core.files import read_json
from flexunet.core.results.metrics import Details, Metrics
from flexunet.core.results.serving import Serving
from flexunet.core.results.verdict import ACCEPTED, REFUSED_BY_GATE, REFUSED_BY_SERVING, Verdict, is_accepted
from flexunet.core.root import Root
from flexunet.serving.model_config import CONFIG_FILE, read_named

Refusal = ModelRefused | ServingRefused
_REFUSALS: Final[dict[Verdict, type[Refusal]]] = {REFUSED_BY_GATE: ModelRefused, REFUSED_BY_SERVING: ServingRefused}


def print_scores(metrics: Metrics, details: Details, console: Console) -> None:
    """Scores of each class, the headline with its interval, and what to be careful about."""
    scores = ("dice", "iou", "precision", "recall")
    heads = ("Dice", "IoU", "precision", "recall", "pixels")
    table = make_table(console, "class", *heads, numbers=heads)
    for name, row in metrics["classes"].items():
        values = [four_digits(row[key]) for key in scores]
        table.add_row(name, *values, "-" if row["pixels"] is None else f"{row['pixels']:,.0f}")
    console.print(table)
    ends = metrics["foreground_dice_interval"]
    interval = f", 95 % interval {four_digits(ends[0])} to {four_digits(ends[1])}" if ends else ""
    console.print(
        f"foreground Dice {four_digits(metrics['foreground_dice'])}{interval} on {metrics['examples']} test images "
        f"(pixel accuracy {four_digits(metrics['pixel_accuracy'])}; "
        f"soft Dice, background included: {four_digits(metrics['seed_dice'])})"
    )
    _print_defects(metrics, console)
    for warning in details["warnings"]:
        print_warning(warning, console)


def _print_defects(metrics: Metrics, console: Console) -> None:
    """What an inspector counts: defects found, false stops, and the operating point behind them."""
    defects, point = metrics["defects"], metrics["operating_point"]
    console.print(
        f"defects found {four_digits(defects['found_share'])}; false alarms on images without defect "
        f"{four_digits(defects['false_alarm_share'])}"
    )
    if defects["found"] is not None and defects["false_regions"] is not None:
        console.print(
            f"{defects['found']:.0f} of {defects['present']:.0f} defects found; {defects['false_regions']:.0f} false "
            f"regions on all images, {four_digits(defects['false_regions_per_megapixel'])} per megapixel"
        )
    if point:
        smallest = point["smallest_regions"]
        words = ", ".join(f"{name} {at:g} from {smallest[name]} pixels on" for name, at in point["thresholds"].items())
        console.print(f"operating point for {point['target']!r}: {words}")
        for problem in point["problems"]:
            print_warning(f"operating point: {problem}", console)


def print_checks(metrics: Metrics, details: Details, console: Console) -> None:
    """Each check of the gate in words; of a refused model also the images that it is worst on."""
    for check in metrics["gate"]:
        verdict = ("passed", "green") if check["passed"] else ("FAILED", "bold red")
        console.print(Text.assemble(verdict, f": {check['words']}"))
    if not metrics["blessed"] and details["images"]["worst"]:
        worst = ", ".join(f"{image['id']} (Dice {image['dice']:.4f})" for image in details["images"]["worst"])
        console.print(f"worst images: {worst}")


def print_outcome(metrics: Metrics, root: Path, console: Console) -> Refusal | None:
    """Scores, the gate's words and the verdict of the run whose report lies in `root`; the refusal, if there is one."""
    details: Details = read_json(Root(root).report.details)
    serving: Serving = read_json(Root(root).report.serving)
    print_scores(metrics, details, console)
    print_checks(metrics, details, console)
    console.print(f"report: {Root(root).report.path}")
    if is_accepted(metrics["verdict"]):
        _print_accepted(metrics, serving.get("rolled_back"), root, console)
    print_next_step(metrics, console)
    return refusal_of(metrics, ", nothing was pushed")


def print_next_step(metrics: Metrics, console: Console) -> None:
    """What a person can do about the verdict, if there is anything to do."""
    if metrics["next_step"]:
        console.print(f"next: {metrics['next_step']}")


def _print_accepted(metrics: Metrics, rolled_back: int | None, root: Path, console: Console) -> None:
    if rolled_back is not None:
        console.print(f"accepted, but this very model was rolled back as version {rolled_back}: not pushed again")
        console.print(f"to bring it back: {spelled('rollback', '--root', root, '--to', rolled_back)}")
        return
    how = "accepted" if metrics["verdict"] == ACCEPTED else "REFUSED by the gate and pushed all the same"
    console.print(f"{how}; the model is version {metrics['pushed_version']}: {Root(root).serving}")
    print_if_named(root, console)


def print_if_named(root: Path, console: Console) -> None:
    """What a new version still needs where `models.config`, and not the highest number, decides what is served."""
    if read_named(Root(root).serving):
        console.print(
            f"{CONFIG_FILE} names what is served: `{spelled('live', 'canary', root)}`, and when the server has it "
            f"`{spelled('live', 'promote', root)}`"
        )


def conclude(metrics: Metrics, refusal: Refusal | None) -> None:
    """Prints the result for scripts; a refusal ends the command after it."""
    print_result(metrics)
    if refusal:
        raise refusal


def refusal_of(metrics: Metrics, what: str = "") -> Refusal | None:
    """The error that ends a command with the verdict's exit code; None if the model was accepted."""
    kind = _REFUSALS.get(metrics["verdict"])
    return kind(f"{kind.WORDS}{what}: {'; '.join(metrics['problems'])}") if kind else None
