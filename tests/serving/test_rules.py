"""The monitoring's rules, by Prometheus' own unit tests: `promtool`, built from its sources."""

import shutil
import subprocess
from pathlib import Path

import pytest
from go_programs import CACHE, go
from processes import ROOT

pytestmark = [pytest.mark.downloads, pytest.mark.slow, pytest.mark.timeout(3600)]

PROMETHEUS = "v0.313.5"
GO_OF_PROMETHEUS = (1, 26)
BINARIES = CACHE / f"prometheus-{PROMETHEUS}"
RULES = ROOT / "flexunet" / "serving" / "deploy" / "monitoring" / "rules.yaml"


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Built as a part of a module of its own, since `go install` refuses Prometheus' file of modules."""
    program = BINARIES / "promtool"
    if not program.is_file():
        package = "github.com/prometheus/prometheus/cmd/promtool"
        shutil.rmtree(BINARIES, ignore_errors=True)
        BINARIES.mkdir(parents=True)
        for command in (
            ["mod", "init", "promtool"],
            ["get", f"{package}@{PROMETHEUS}"],
            ["build", "-tags", "remove_all_sd", "-o", str(program), package],
        ):
            go(*command, cwd=BINARIES, oldest=GO_OF_PROMETHEUS)
    return program


def test_the_rules_are_valid(promtool: Path) -> None:
    subprocess.run([promtool, "check", "rules", "--lint-fatal", str(RULES)], check=True)


def test_each_alert_sees_what_it_should_and_nothing_else(promtool: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules_test.yaml"
    file.write_text((Path(__file__).parent / "rules_test.yaml").read_text().replace("RULES", str(RULES)))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
