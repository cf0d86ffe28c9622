"""What a run or a measurement came to, on the terminal: scores, the gate's checks, the verdict."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from flexunet.cli.console import print_result
from flexunet.cli.tables import four_digits, make_table, print_warning
from flexunet.core.errors import ModelRefused, ServingRefused
from flexunet.core.files import read_json
from flexunet.core.root import Root

Refusal = ModelRefused | ServingRefused


def print_scores(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
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
    found, alarms = metrics["defects"]["found_share"], metrics["defects"]["false_alarm_share"]
    console.print(f"defects found {four_digits(found)}; false alarms on images without defect {four_digits(alarms)}")
    for warning in details["warnings"]:
        print_warning(warning, console)


def print_checks(metrics: dict[str, Any], details: dict[str, Any], console: Console) -> None:
    """Each check of the gate in words; of a refused model also the images that it is worst on."""
    for check in metrics["gate"]:
        verdict = ("passed", "green") if check["passed"] else ("FAILED", "bold red")
        console.print(Text.assemble(verdict, f": {check['words']}"))
    if not metrics["blessed"] and details["images"]["worst"]:
        worst = ", ".join(f"{image['id']} (Dice {image['dice']:.4f})" for image in details["images"]["worst"])
        console.print(f"worst images: {worst}")


def failures(metrics: dict[str, Any]) -> str:
    """The failed checks in one line."""
    return "; ".join(check["words"] for check in metrics["gate"] if not check["passed"])


def print_outcome(metrics: dict[str, Any], root: Path, console: Console, accept_refused: str) -> Refusal | None:
    """Scores, the gate's words and the verdict of the run whose report lies in `root`; the refusal, if there is one."""
    from pipeline.run import serving_verdict

    details, verdict = read_json(Root(root).report.details), serving_verdict(root)
    print_scores(metrics, details, console)
    print_checks(metrics, details, console)
    console.print(f"report: {Root(root).report.path}")
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
    console.print(f"{how}; the model is version {metrics['pushed_version']}: {Root(root).serving}")


def conclude(metrics: dict[str, Any], refusal: Refusal | None) -> None:
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
