"""What each node depends on, read off the compiled pipeline."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tfx.dsl.compiler import compiler
from tfx.orchestration import metadata

from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.dataset.manifest import FORMAT
from pipeline import dag

NODES = [
    "RecordGen",
    "RecordSchema",
    "StatisticsGen",
    "ExampleValidator",
    "PreviousSpanResolver",
    "DriftReporter",
    "MaskValidator",
    "Transform",
    "Trainer",
    "BaselineResolver",
    "Evaluator",
    "ServingValidator",
    "Pusher",
    "Reporter",
]
ENTRY_MODULES = {
    "RecordSchema": "components.record_schema",
    "MaskValidator": "components.mask_validator",
    "DriftReporter": "components.drift",
    "Transform": "transform_module.preprocessing",
    "Trainer": "trainer_module.trainer",
    "Evaluator": "components.segmentation_metrics",
    "ServingValidator": "flexunet.serving.validate",
    "Pusher": "components.pusher",
    "RecordGen": "components.record_gen",
    "Reporter": "components.reporter",
}


def unchanged(modules: Sequence[str]) -> str:
    return ",".join(modules)


def compiled(config: Config, fingerprint: Callable[[Sequence[str]], str] = unchanged, data: str = "/data") -> Any:
    connection = metadata.sqlite_metadata_connection_config("/nowhere/metadata.db")
    pipeline = dag.create_pipeline(config, dag.Paths(data, "/root"), connection, [], fingerprint)
    return compiler.Compiler().compile(pipeline)


def execution_properties(ir: Any) -> dict[str, bytes]:
    """Each node's parameters: what TFX's cache key is made of, besides the inputs."""
    return {
        node.pipeline_node.node_info.id: node.pipeline_node.parameters.SerializeToString(deterministic=True)
        + node.pipeline_node.inputs.SerializeToString(deterministic=True)
        for node in ir.nodes
    }


def changed(before: Any, after: Any) -> set[str]:
    old, new = execution_properties(before), execution_properties(after)
    assert old.keys() == new.keys()
    return {node for node in old if old[node] != new[node]}


def test_the_nodes_and_their_order(make_config: Any) -> None:
    ir = compiled(make_config())
    assert [node.pipeline_node.node_info.id for node in ir.nodes] == NODES
    upstream = {node.pipeline_node.node_info.id: set(node.pipeline_node.upstream_nodes) for node in ir.nodes}
    assert upstream["MaskValidator"] == {"RecordGen", "ExampleValidator"}
    # It reads nothing of the validator's, and yet waits for its verdict.
    assert "MaskValidator" in upstream["Transform"]
    assert upstream["ServingValidator"] == {"Trainer", "Evaluator", "RecordGen"}
    assert upstream["Pusher"] >= {"Trainer", "Evaluator", "ServingValidator"}
    assert upstream["Reporter"] >= {"Evaluator", "Pusher"}
    assert upstream["BaselineResolver"] == {"Trainer"}


def test_a_warm_start_has_a_resolver_before_the_trainer(make_config: Any) -> None:
    ir = compiled(make_config(train={"warm_start": True}))
    upstream = {node.pipeline_node.node_info.id: set(node.pipeline_node.upstream_nodes) for node in ir.nodes}
    assert set(upstream) == {*NODES, "WarmStartResolver"}
    assert upstream["WarmStartResolver"] == {"Transform"}
    assert "WarmStartResolver" in upstream["Trainer"]


def test_a_search_is_a_node_only_where_there_is_something_to_try(make_config: Any) -> None:
    usual, budget = compiled(make_config()), compiled(make_config(tune={"seconds": 5}))
    assert changed(usual, budget) == set()
    space = {"train": {"learning_rate": [1e-3, 1e-2]}}
    searching = compiled(make_config(tune={"space": space}))
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in searching.nodes}
    assert [name for name in nodes if name != "Tuner"] == NODES
    assert set(nodes["Tuner"].upstream_nodes) == {"Transform"}
    assert {"Tuner", "Transform"} <= set(nodes["Trainer"].upstream_nodes) and "Tuner" in nodes[
        "Reporter"
    ].upstream_nodes
    # It is steered by `eval` only, and never sees what the gate decides by.
    assert "test" not in str(nodes["Tuner"].parameters.parameters["eval_args"])
    more = compiled(make_config(tune={"space": space, "seconds": 5}))
    assert changed(searching, more) == {"Tuner"}
    assert changed(searching, compiled(make_config(tune={"space": space}, gate={"min_foreground_dice": 0.6}))) == {
        *("Evaluator", "Pusher", "Reporter")
    }


def test_other_content_of_an_encoders_file_trains_anew_and_nothing_else(make_config: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    config = make_config(
        model={"encoder": "efficientnetv2-b0", "num_layers": 5},
        train={"encoder_weights": str(file)},
        tune={"space": {"train": {"learning_rate": [1e-3, 1e-2]}}},
    )
    file.write_bytes(b"some")
    before, same = compiled(config), compiled(config)
    file.write_bytes(b"other")
    assert changed(before, same) == set() and changed(before, compiled(config)) == {"Tuner", "Trainer"}
    file.unlink()
    with pytest.raises(UserError, match=r"^train.encoder_weights: .*weights.h5: No such file"):
        compiled(config)


def test_an_export_takes_the_place_of_a_training(make_config: Any, tmp_path: Path) -> None:
    connection = metadata.sqlite_metadata_connection_config("/nowhere/metadata.db")
    paths = dag.Paths("/data", "/root")
    pipeline = dag.create_pipeline(make_config(), paths, connection, [], unchanged, from_model=tmp_path)
    ir, usual = compiler.Compiler().compile(pipeline), compiled(make_config())
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    assert list(nodes) == [{"Trainer": "ModelImporter"}.get(node, node) for node in NODES if node != "Transform"]
    assert set(nodes["ModelImporter"].upstream_nodes) == {"MaskValidator"}
    # What comes before has the same key in the cache.
    before, after = execution_properties(usual), execution_properties(ir)
    data = NODES[: NODES.index("Transform")]
    assert [node for node in data if before[node] != after[node]] == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, set()),
        ({"gate": {"min_foreground_dice": 0.6}}, {"Evaluator", "Pusher", "Reporter"}),
        ({"gate": {"max_regression": 0.1}}, {"Evaluator", "Pusher", "Reporter"}),
        ({"serving": {"keep_versions": 3}}, {"ServingValidator", "Pusher", "Reporter"}),
        ({"serving": {"max_latency_seconds": 2}}, {"ServingValidator", "Reporter"}),
        ({"train": {"epochs": 9}}, {"Trainer"}),
        ({"model": {"base_filters": 4}}, {"Trainer"}),
        ({"augment": {"zoom": 0.2}}, {"Trainer"}),
        # ServingValidator has the settings of the export.
        ({"image": {"fit": "pad"}}, {"MaskValidator", "Transform", "Trainer"}),
        (
            {"records": {"group": "image/other"}},
            {
                *("RecordSchema", "MaskValidator", "Transform", "Trainer", "BaselineResolver", "ServingValidator"),
                *("Pusher", "Reporter"),
            },
        ),
        # The report shows every setting. What ingest alone reads re-runs nothing else, and leaves the baseline one.
        ({"dataset": {"seed": 1}}, {"Reporter"}),
        ({"dataset": {"sources": {"rendered": 0.25}}}, {"MaskValidator", "Transform", "Trainer", "Reporter"}),
        ({"records": {"mask_values": "ids", "mask_colors": "nearest", "overlaps": "smallest"}}, {"Reporter"}),
        ({"card": {"owner": "line 3"}}, {"Pusher"}),
        ({"beam": {"parallelism": 2}}, {"Reporter"}),
        ({"kubeflow": {"nodes": {"Trainer": {"memory": "8Gi"}}}}, {"Reporter"}),
        ({"operating_point": {"target": "found >= 0.9"}}, {"Transform", "Trainer"}),
    ],
    ids=[
        *("nothing", "gate", "regression", "versions", "latency", "epochs", "model", "augment"),
        *("fit", "records", "dataset", "sources", "masks", "card", "beam", "kubeflow", "operating point"),
    ],
)
def test_a_section_reaches_only_the_nodes_that_read_it(
    make_config: Any, sections: dict[str, Any], expected: set[str]
) -> None:
    assert changed(compiled(make_config()), compiled(make_config(**sections))) == expected


def test_what_a_found_defect_is_matters_to_a_training_that_chooses_by_it(make_config: Any) -> None:
    target = {"operating_point": {"target": "at most 1 false regions per megapixel"}}
    before, after = (compiled(make_config(gate={"defect_overlap": share}, **target)) for share in (0.25, 0.5))
    assert changed(before, after) == {"Trainer", "Evaluator", "Pusher", "Reporter"}


def test_another_share_of_a_source_reaches_the_training_alone(make_config: Any) -> None:
    before, after = (compiled(make_config(dataset={"sources": {"rendered": share}})) for share in (0.25, 0.3))
    assert changed(before, after) == {"Trainer", "Reporter"}


@pytest.mark.parametrize(("node", "module"), [*ENTRY_MODULES.items(), ("Evaluator", "components.evaluated_model")])
def test_an_edit_reaches_only_the_nodes_that_run_it(make_config: Any, node: str, module: str) -> None:
    def edited(modules: Sequence[str]) -> str:
        return unchanged(modules) + (" edited" if module in modules else "")

    assert changed(compiled(make_config()), compiled(make_config(), edited)) == {node}


def test_a_model_whose_evaluate_gives_something_else_is_no_baseline(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiled(make_config())
    monkeypatch.setattr(dag.features, "EVALUATE_FORMAT", 99)
    assert changed(before, compiled(make_config())) == {"BaselineResolver", "Pusher"}


def test_a_reason_to_push_a_refused_model_reaches_only_what_the_gate_would_stop(make_config: Any) -> None:
    connection = metadata.sqlite_metadata_connection_config("/nowhere/metadata.db")
    paths = dag.Paths("/data", "/root")
    pipeline = dag.create_pipeline(make_config(), paths, connection, [], unchanged, accepted_refused="it is needed")
    found = changed(compiled(make_config()), compiler.Compiler().compile(pipeline))
    # The report says what became of the model, and so whether somebody overruled the gate.
    assert found == {"ServingValidator", "Pusher", "Reporter"}


def test_another_key_in_the_same_file_reaches_the_pusher(make_config: Any, tmp_path: Path) -> None:
    key, found = tmp_path / "signing.pem", list[Any]()
    for _ in range(2):
        kept = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*kept))
        found.append(compiled(make_config(serving={"signing_key": str(key)})))
    assert changed(*found) == {"Pusher"}


def test_the_mask_validator_expects_what_the_manifest_says(make_config: Any, tmp_path: Path) -> None:
    def expected(data: str) -> Any:
        ir = compiled(make_config(), data=data)
        [node] = [n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == "MaskValidator"]
        return json.loads(node.parameters.parameters["expected"].field_value.string_value)

    assert expected("/data") is None
    (tmp_path / "span-1" / "version-1").mkdir(parents=True)
    span = {"span": 1, "version": 1, "splits": {"train": {"images": 2, "groups": 1, "pixels": {"patches": 3}}}}
    (tmp_path / "dataset.json").write_text(json.dumps({"format": FORMAT, **span, "spans": [span]}))
    assert expected(str(tmp_path)) == {"train": {"images": 2, "pixels": {"patches": 3}}}


def test_the_test_split_is_measured_and_never_transformed(make_config: Any) -> None:
    ir = compiled(make_config())
    parameters = {n.pipeline_node.node_info.id: str(n.pipeline_node.parameters) for n in ir.nodes}
    assert '[\\"test\\"]' in parameters["Evaluator"]
    assert "test" not in parameters["Transform"].partition("splits_config")[2].partition("}")[0]


def test_the_evaluator_loads_models_by_our_module(make_config: Any) -> None:
    [node] = [n for n in compiled(make_config()).nodes if n.pipeline_node.node_info.id == "Evaluator"]
    module = node.pipeline_node.parameters.parameters["module_path"].field_value.string_value
    assert module == "components.evaluated_model"


def test_tfx_own_infra_validator_is_an_option_and_the_pusher_waits_for_both(make_config: Any) -> None:
    image = "registry:5000/tensorflow/serving:2.21.0"
    ir = compiled(make_config(serving={"infra_validator": "local_docker", "image": image}))
    nodes = {n.pipeline_node.node_info.id: n.pipeline_node for n in ir.nodes}
    assert {"ServingValidator", "InfraValidator"} <= set(nodes["Pusher"].upstream_nodes)
    assert "ServingValidator" in nodes["InfraValidator"].upstream_nodes
    parameters = str(nodes["InfraValidator"].parameters)
    assert "serving_examples" in parameters and "local_docker" in parameters
    assert '\\"image_name\\": \\"registry:5000/tensorflow/serving\\"' in parameters
    assert '\\"tags\\": [\\n      \\"2.21.0\\"' in parameters or '\\"2.21.0\\"' in parameters
