"""`make sbom`: the same packages and hashes as the requirements that the image installs."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import ROOT

_PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.M)
_HASH = re.compile(r"--hash=sha256:(\w{64})")


@pytest.mark.skipif(not (ROOT / ".uv" / "bin" / "uv").is_file(), reason="needs the uv of `make setup`")
def test_the_bill_of_materials_names_what_is_installed_with_its_hashes(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "uv.lock", "README.md", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".uv").symlink_to(ROOT / ".uv")
    subprocess.run(["make", "sbom"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "UV_OFFLINE": "1"}, check=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    requirements = (ROOT / "requirements.txt").read_text()
    assert {(one["name"], one["version"]) for one in bill["components"]} == {*_PINNED.findall(requirements)}
    references = [reference for one in bill["components"] for reference in one["externalReferences"]]
    hashes = {digest["content"] for reference in references for digest in reference.get("hashes", [])}
    assert {*_HASH.findall(requirements)} <= hashes
