"""What moved between spans, by TFDV's comparators on real statistics."""

from pathlib import Path
from typing import Any

import pytest
from examples import serialized, write_examples
from steel import NAMES
from tfx.types import standard_artifacts

from components.drift import PreviousSpanStatistics, drift_findings
from components.record_schema import record_schema
from flexunet.core.config.data import SchemaConfig
from flexunet.core.config.section import part_of

# After tfx, which stands in for a module that TFDV needs.
import numpy as np  # isort: skip
import tensorflow_data_validation as tfdv  # isort: skip


def write_statistics(folder: Path, schema: Any, seed: int, darker: float = 0.0, more_patches: float = 0.0) -> str:
    """Statistics of 200 records as ingest writes them, but without pictures."""
    generator = np.random.default_rng(seed)
    split = folder / "Split-train"

    def example(index: int) -> bytes:
        shares = generator.dirichlet([40, 1, 3, 1])
        shares = (shares + np.array([0, 0, more_patches, 0])) / (1 + more_patches)
        numbers = {"image/brightness": generator.normal(120, 20) - darker}
        numbers |= {f"mask/share/{name}": float(share) for name, share in zip(NAMES, shares, strict=True)}
        texts = {"image/id": f"{index}", "image/group": f"{index}", "image/encoded": "x", "mask/encoded": "x"}
        return serialized({**numbers, **texts})

    records = write_examples(split / "rows.tfrecord.gz", map(example, range(200)))
    statistics = tfdv.generate_statistics_from_tfrecord(str(records), stats_options=tfdv.StatsOptions(schema=schema))
    (split / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    return str(folder)


@pytest.fixture(scope="module")
def schema(make_config: Any) -> Any:
    return record_schema(part_of(make_config(), SchemaConfig))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, schema: Any) -> str:
    return write_statistics(tmp_path_factory.mktemp("before"), schema, seed=0)


def moved(current: str, previous: str, schema: Any) -> set[str]:
    findings = drift_findings(current, previous, schema)
    assert {f["feature"] for f in findings} == {"image/brightness", *(f"mask/share/{name}" for name in NAMES)}
    return {finding["feature"] for finding in findings if finding["moved"]}


def test_the_same_kind_of_data_did_not_move(tmp_path: Path, before: str, schema: Any) -> None:
    assert moved(write_statistics(tmp_path, schema, seed=1), before, schema) == set()


def test_darker_images_are_named(tmp_path: Path, before: str, schema: Any) -> None:
    assert moved(write_statistics(tmp_path, schema, seed=1, darker=40), before, schema) == {"image/brightness"}


def test_more_patches_are_named(tmp_path: Path, before: str, schema: Any) -> None:
    assert "mask/share/patches" in moved(write_statistics(tmp_path, schema, 1, more_patches=0.3), before, schema)


def statistics(artifact_id: int, span: int) -> Any:
    result = standard_artifacts.ExampleStatistics()
    result.id, result.span = artifact_id, span
    return result


@pytest.mark.parametrize(
    ("spans", "expected"),
    [({1: 3}, []), ({1: 2}, [1]), ({1: 1, 2: 2, 3: 3}, [2]), ({1: 2, 2: 2}, [2]), ({1: 4}, [])],
    ids=["same", "one", "newest-span", "newest-run", "later"],
)
def test_the_span_before(spans: dict[int, int], expected: list[int]) -> None:
    inputs = {
        "current": [statistics(9, 3)],
        "statistics": [statistics(9, 3), *(statistics(i, span) for i, span in spans.items())],
    }
    resolved = PreviousSpanStatistics().resolve_artifacts(None, inputs)
    assert [artifact.id for artifact in resolved["statistics"]] == expected
