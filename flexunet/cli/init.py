"""`flexunet init`."""

from pathlib import Path

import click

from flexunet.cli.command import Command, spelled
from flexunet.cli.console import NO_LOG, captured_output, print_result
from flexunet.cli.options import AS_JSON, LAYOUT, NEW_CONFIG, NO_MASK, PATH
from flexunet.core.errors import UserError


@click.command(cls=Command, interrupted="nothing was written")
@click.argument("source", type=PATH)
@NEW_CONFIG
@LAYOUT
@NO_MASK
@AS_JSON
def init(source: Path, out: Path, layout_name: str | None, no_mask_is_background: bool) -> None:
    """Looks at SOURCE and writes a config: classes, colours, image size; what only you know is a comment in it.

    Examples:
      flexunet init photos --out mine.toml
      flexunet init photos --out mine.toml --layout coco
    """
    from flexunet.core.files import replace_text
    from flexunet.core.finder import find_files
    from flexunet.dataset.describe import describe, write_toml
    from flexunet.dataset.layouts.interface import Source

    if not source.is_dir():
        what = "not a folder" if source.exists() else "no such folder"
        raise UserError(f"{source}: {what}, expected a folder of images and what tells their classes")
    with captured_output(NO_LOG) as console:
        described = describe(Source(find_files(source), no_mask_is_background), layout_name)
        replace_text(out, write_toml(described, source))
        console.print(described.layout.description)
        console.print(f"classes: {', '.join(found.name for found in described.classes)}")
        for sentence in described.unknown:
            console.print(f"only you know: {sentence}")
        flags = ["--layout", layout_name] if layout_name else []
        flags += ["--no-mask-is-background"] if no_mask_is_background else []
        follow = spelled("ingest", source, "records", "--config", out, "--check", *flags)
        console.print(f"written: {out}; next: {follow}")
    print_result({"config": out, "layout": described.layout.name, "classes": [c.name for c in described.classes]})
