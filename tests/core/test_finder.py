"""One finder for every command: each file below a folder is found, or counted with the reason why it is not."""

import os
from pathlib import Path
from unicodedata import normalize

import pytest

from flexunet.core.errors import UserError
from flexunet.core.finder import AREAS_COLUMNS, Files, find_files, left_out_words


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def reasons(files: Files) -> dict[str, int]:
    return {entry.why: entry.files for entry in files.left_out}


def test_files_come_by_name_and_hidden_ones_are_counted(tmp_path: Path) -> None:
    hidden = [".DS_Store", "a/._ok.png", ".ipynb_checkpoints/a-checkpoint.png", ".ipynb_checkpoints/b/c.png"]
    others = ["@eaDir/a.png/SYNOPHOTO.jpg", "x/__MACOSX/._a.png", "x/#recycle/b.png", "x/$RECYCLE.BIN/c.png"]
    files = find_files(tree(tmp_path, "b.png", "a/2.png", "a/10.png", "B.PNG", *hidden, *others))
    assert files.names == ("B.PNG", "a/10.png", "a/2.png", "b.png")
    assert reasons(files) == {"hidden": 2, "in hidden folders": 6}
    assert files.left_out[1].example == ".ipynb_checkpoints/a-checkpoint.png"


def test_every_file_is_found_or_counted(tmp_path: Path) -> None:
    names = ["images/a.png", "images/Thumbs.db", "notes", "b.TXT", ".git/x/y", "out/z", "images/.b.png", "@eaDir/q"]
    root = tree(tmp_path, *names, "out/deep/z.png")
    files = find_files(root)
    read = files.with_suffix({".png"})
    left_out = files.account(read)
    assert sum(entry.files for entry in left_out) + len(read) == sum(len(found) for *_, found in os.walk(root))
    assert left_out_words(left_out, len(read)) == (
        "left out 7 of 9 files: 2 in hidden folders (such as .git/x/y), 2 without a suffix (such as notes), "
        "1 hidden (such as images/.b.png), 1 with the suffix .txt (such as b.TXT), "
        "1 with the suffix .db (such as images/Thumbs.db)"
    )
    assert left_out_words((), 9) == ""


def test_links_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "images/a.png", "one.png")
    tree(tmp_path / "elsewhere", "b.png")
    (root / "a-link").symlink_to(root / "images")
    (root / "circle").symlink_to(root)
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "outside-again").symlink_to(tmp_path / "elsewhere")
    (root / "two.png").symlink_to(root / "one.png")
    (root / "itself").symlink_to(root / "itself")
    (root / "broken.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    files = find_files(root)
    assert files.names == ("images/a.png", "one.png", "outside/b.png", "two.png")
    assert reasons(files) == {
        "link to a folder that is read already": 3,
        "no regular file (a broken link, a pipe)": 3,
    }


def test_own_output_is_left_out(tmp_path: Path) -> None:
    photos = tree(tmp_path, "a.png", "earlier/a_mask.png", "earlier/a_overlay.png", "earlier/mine.png", "out/b.png")
    (photos / "earlier/areas.csv").write_text(",".join(AREAS_COLUMNS) + "\n")
    tree(photos, "records/dataset.json", "records/span-1/version-1/x.png", "runs/metadata.db", "runs/report/y.png")
    (photos / "table.csv").write_text("a,b\n")
    files = find_files(photos, photos / "out")
    assert files.names == ("a.png", "earlier/mine.png", "table.csv")
    assert reasons(files) == {
        "output folder of this command": 1,
        "written by `flexunet predict`": 3,
        "written by `flexunet ingest`": 2,
        "in the folder of a run": 2,
    }


def test_a_table_of_somebody_else_says_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "a_mask.png")
    (tmp_path / "areas.csv").write_text("image,area\n")
    (tmp_path / "dataset.json").write_text("{}")
    assert find_files(tmp_path).names == ("a_mask.png", "areas.csv", "dataset.json")


def test_names_are_ordered_by_their_composed_form(tmp_path: Path) -> None:
    decomposed = normalize("NFD", "ä.png")
    tree(tmp_path, "ñ.png", decomposed, "z.png")
    assert find_files(tmp_path).names == ("z.png", decomposed, "ñ.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "a/b.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(UserError, match="a: cannot be listed"):
        find_files(tmp_path)
