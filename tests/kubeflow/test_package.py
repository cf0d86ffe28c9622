"""The compiled package: the same graph as locally, and what each task asks of the cluster."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp_package import Package, check_rules, read_package
from kfp_pods import pod_of
from processes import python
from small_disk import fill, small_disk
from tfx.orchestration import metadata

from flexunet.core.config.load import ConfigError, config_from
from flexunet.core.config.whole import Config
from flexunet.core.disk import words_of
from flexunet.core.errors import UserError
from flexunet.serving.signing import PASSWORD_VARIABLE
from kubeflow import package as packages
from kubeflow.resources import SIGNING_KEY
from pipeline import dag
from pipeline.launch import compile_run

# As the command line imports it: another package of the name may be installed.

GRAPH = {"RecordGen": [], "Transform": ["RecordGen"], "Trainer": ["Transform"]}
DATABASE = ("kind", "host", "port", "database", "user", "password")


@pytest.fixture
def compiled(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Package]:
    """`compiled(nodes={...})`: a package of three nodes with these settings of `[kubeflow]`."""

    def compile_it(**kubeflow: Any) -> Package:
        config = make_config(kubeflow=kubeflow)
        packages.write_package(packages.Package(config, "registry.example/flexunet:1", GRAPH), tmp_path / "p.yaml")
        return read_package(tmp_path / "p.yaml")

    return compile_it


def environment(package: Package, task: str) -> dict[str, str]:
    return {variable.name: variable.value for variable in package.container(task).env}


def test_the_api_server_and_the_compiler_to_argo_take_it(package: Package) -> None:
    check_rules(package)


def test_a_field_that_kubeflow_does_not_know_is_refused_by_the_reader(package_file: Path, tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(package_file.read_text()))
    documents[0]["root"]["dag"]["tasks"]["trainer"]["gpus"] = 1
    (tmp_path / "p.yaml").write_text(yaml.safe_dump_all(documents))
    with pytest.raises(json_format.ParseError, match="gpus"):
        read_package(tmp_path / "p.yaml")


MORE = {"train": {"warm_start": True}, "tune": {"space": {"train": {"learning_rate": [1e-3, 1e-2]}}}}


@pytest.mark.parametrize("section", [{}, MORE], ids=["plain", "warm start and search"])
def test_a_packages_graph_is_that_of_the_local_runner(
    tmp_path: Path, make_config: Callable[..., Config], section: dict[str, Any]
) -> None:
    config = make_config(**section)
    connection = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.db"))
    paths = dag.Paths(str(tmp_path), str(tmp_path))
    local = compile_run(dag.create_pipeline(config, paths, connection, [], fingerprint=lambda modules: ""), "local")
    wanted = {n.pipeline_node.node_info.id: sorted(n.pipeline_node.upstream_nodes) for n in local.nodes}
    assert packages.node_graph(config) == wanted and ("Tuner" in wanted) == ("tune" in section)


def test_an_encoders_file_is_one_that_pods_see(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    """The machine that compiles need not have it."""

    def config(file: str) -> Config:
        return make_config(model={"encoder": "efficientnetv2-b0", "num_layers": 5}, train={"encoder_weights": file})

    def written(file: str) -> None:
        packages.write_package(
            packages.Package(config(file), "registry.example/flexunet:1", GRAPH), tmp_path / "p.yaml"
        )

    with pytest.raises(
        ConfigError, match=r"^train.encoder_weights: weights.h5 is in no pod, expected a path below .*mnt"
    ):
        written("weights.h5")
    assert "Trainer" in packages.node_graph(config("/mnt/flexunet/weights.h5"))
    written("/mnt/flexunet/weights.h5")
    prepare = read_package(tmp_path / "p.yaml").container("prepare")
    assert any('"encoder_weights":"/mnt/flexunet/weights.h5"' in argument for argument in prepare.args)


def test_the_tasks_wait_for_each_other_as_the_graphs_nodes_do(
    package: Package, make_config: Callable[..., Config]
) -> None:
    graph = packages.node_graph(make_config())
    wanted = {
        packages.task_name(node): {packages.task_name(upstream) for upstream in waited_for}
        for node, waited_for in graph.items()
    }
    tasks = package.tasks
    found = {name: set(task.dependent_tasks) for name, task in tasks.items() if name not in ("prepare", "verdict")}
    assert found == {name: upstream | {"prepare"} for name, upstream in wanted.items()}
    last = set(wanted) - set().union(*wanted.values())
    assert set(tasks["verdict"].dependent_tasks) == last
    assert set(tasks["prepare"].dependent_tasks) == set()


def test_only_nodes_are_retried(package: Package) -> None:
    retried = {name for name, task in package.tasks.items() if task.HasField("retry_policy")}
    assert retried == set(package.tasks) - {"prepare", "verdict"}
    assert package.tasks["trainer"].retry_policy.max_retry_count == 3
    assert package.tasks["transform"].retry_policy.max_retry_count == 2
    # Argo retries nothing that began longer ago than this; kfp would make it an hour, which a training outlasts.
    windows = {package.tasks[name].retry_policy.backoff_max_duration.ToSeconds() for name in retried}
    assert windows == {365 * 24 * 3600}


def test_the_package_begins_with_kfps_summary_for_readers(package_file: Path) -> None:
    assert package_file.read_text().startswith("# PIPELINE DEFINITION\n# Name: flexunet\n")


def test_the_parameters_of_a_run_have_types_and_defaults(package: Package) -> None:
    declared = package.spec.root.input_definitions.parameters
    defaults = {name: json_format.MessageToDict(spec.default_value) for name, spec in declared.items()}
    assert defaults == {"data": "records", "span": 0, "overrides": [], "accept_refused": ""}
    kinds = {name: spec.WhichOneof("kind") for name, spec in package.tasks["prepare"].inputs.parameters.items()}
    assert {kinds.pop("run_id")} == {"runtime_value"} and set(kinds.values()) == {"component_input_parameter"}


def test_defaults_give_a_gpu_to_the_trainer_alone_and_hide_them_from_all_others(compiled: Any) -> None:
    package = compiled()
    trainer = package.container("trainer").resources
    assert (trainer.accelerator.resource_type, trainer.accelerator.resource_count) == ("nvidia.com/gpu", "1")
    assert "CUDA_VISIBLE_DEVICES" not in environment(package, "trainer")
    assert environment(package, "trainer")["FLEXUNET_GPUS"] == "1"
    for task in set(package.tasks) - {"trainer"}:
        assert not package.container(task).resources.HasField("accelerator"), task
        assert environment(package, task)["CUDA_VISIBLE_DEVICES"] == "-1", task


def test_resources_come_from_the_config_node_by_node(compiled: Any) -> None:
    toleration = {"key": "gpu", "effect": "NoSchedule"}
    trainer = {
        "cpu": "8",
        "memory": "32Gi",
        "gpus": 4,
        "gpu_resource": "amd.com/gpu",
        "shared_memory": "8Gi",
        "node_selector": {"pool": "gpu"},
        "tolerations": [toleration],
        "timeout_seconds": 3600,
        "retries": 7,
        "env": {"NCCL_DEBUG": "INFO"},
        "secrets": {"store": {"key": "AWS_SECRET_ACCESS_KEY"}},
    }
    package = compiled(defaults={"memory": "3Gi", "node_selector": {"pool": "cpu"}}, nodes={"Trainer": trainer})
    resources, cluster = package.container("trainer").resources, package.cluster("trainer")
    assert (resources.resource_cpu_request, resources.resource_memory_limit) == ("8", "32Gi")
    assert (resources.accelerator.resource_type, resources.accelerator.resource_count) == ("amd.com/gpu", "4")
    assert dict(cluster.node_selector.labels) == {"pool": "gpu"}
    [found] = cluster.tolerations
    assert (found.key, found.operator, found.value, found.effect) == ("gpu", "Exists", "", "NoSchedule")
    assert cluster.active_deadline_seconds == 3600
    assert package.tasks["trainer"].retry_policy.max_retry_count == 7
    assert environment(package, "trainer")["NCCL_DEBUG"] == "INFO"
    [memory] = [mount for mount in cluster.empty_dir_mounts if mount.mount_path == "/dev/shm"]
    assert (memory.medium, memory.size_limit) == ("Memory", "8Gi")
    [secret] = [
        s for s in cluster.secret_as_env if s.secret_name_parameter.runtime_value.constant.string_value == "store"
    ]
    assert [(pair.secret_key, pair.env_var) for pair in secret.key_to_env] == [("key", "AWS_SECRET_ACCESS_KEY")]
    other = package.container("transform").resources
    assert (other.resource_cpu_request, other.resource_memory_limit) == ("1", "3Gi")
    assert dict(package.cluster("transform").node_selector.labels) == {"pool": "cpu"}
    assert not package.cluster("transform").tolerations


def test_every_container_is_no_root_and_has_only_the_volume_and_scratch(compiled: Any) -> None:
    package = compiled(volume_claim="mine", run_as_user=1234, image_pull_secrets=["registry"])
    for task in package.tasks:
        cluster = package.cluster(task)
        context = cluster.security_context
        assert (context.run_as_user, context.run_as_group, context.run_as_non_root) == (1234, 65532, True)
        [volume] = cluster.pvc_mount
        claim = volume.pvc_name_parameter.runtime_value.constant.string_value
        assert (claim, volume.mount_path) == ("mine", "/mnt/flexunet")
        assert {mount.mount_path for mount in cluster.empty_dir_mounts} <= {"/tmp", "/dev/shm"}
        assert [secret.secret_name for secret in cluster.image_pull_secret] == ["registry"]


def test_the_database_is_told_by_a_secret_and_nothing_else(compiled: Any) -> None:
    package = compiled(database_secret="elsewhere")
    for task in package.tasks:
        required, optional = package.cluster(task).secret_as_env
        assert [s.secret_name_parameter.runtime_value.constant.string_value for s in (required, optional)] == [
            "elsewhere",
            "elsewhere",
        ]
        assert tuple(pair.secret_key for pair in required.key_to_env) == DATABASE and not required.optional
        assert {pair.secret_key for pair in optional.key_to_env} == {"sslmode", "sslrootcert"} and optional.optional
    text = package.spec.SerializeToString()
    assert b"password" not in text.lower()


def test_the_key_that_signs_is_in_the_pods_that_need_it_and_in_no_other(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    """The file of one machine gives way to the cluster's, and the password is no argument."""
    config = make_config(kubeflow={"signing_secret": "mine"}, serving={"signing_key": "signing.pem"})
    graph = {**GRAPH, "Pusher": ["Trainer"]}
    packages.write_package(packages.Package(config, "registry.example/flexunet:1", graph), tmp_path / "p.yaml")
    package = read_package(tmp_path / "p.yaml")
    check_rules(package)
    has_key = {task for task in package.tasks if package.cluster(task).secret_as_volume}
    assert has_key == {"prepare", "pusher"}
    for task in package.tasks:
        pod = pod_of(package, task, "kubeflow", "flexunet-pipeline")
        kubernetes_validate.validate(pod, "1.32", strict=True)
        [main] = pod["spec"]["containers"]
        password = [one["valueFrom"] for one in main["env"] if one["name"] == PASSWORD_VARIABLE]
        asked = {"secretKeyRef": {"name": "mine", "key": "password", "optional": True}}
        assert password == ([asked] if task in has_key else [])
        mounted = {one["name"]: one["mountPath"] for one in main["volumeMounts"]}
        assert mounted.get("mine") == (str(Path(SIGNING_KEY).parent) if task in has_key else None)
    arguments = [*package.container("prepare").args]
    travelled = config_from(json.loads(arguments[arguments.index("--config") + 1]), "the package")
    assert travelled.serving.signing_key == SIGNING_KEY


def test_a_key_that_is_in_no_pod_is_refused(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    config = make_config(serving={"signing_key": "signing.pem"})
    with pytest.raises(ConfigError, match=r"signing\.pem is in no pod, expected kubeflow\.signing_secret"):
        packages.write_package(packages.Package(config, "image", GRAPH), tmp_path / "p.yaml")


def test_a_node_that_there_is_not_is_named(compiled: Any) -> None:
    with pytest.raises(ConfigError, match=r"kubeflow\.nodes\.Trainr: no such node, expected one of RecordGen, "):
        compiled(nodes={"Trainr": {"gpus": 2}})


def test_the_verdict_cannot_be_retried(compiled: Any) -> None:
    with pytest.raises(ConfigError, match=r"kubeflow\.nodes\.Verdict\.retries: Verdict is never retried"):
        compiled(nodes={"Verdict": {"retries": 1}})


def test_what_argo_would_replace_is_refused(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    config = make_config(serving={"mirror": "s3://bucket/{{workflow.name}}"})
    with pytest.raises(UserError, match=r"the config holds '\{\{'"):
        packages.write_package(packages.Package(config, "image", GRAPH), tmp_path / "p.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kubeflow", "message"),
    [
        ({"nodes": {"Trainer": {"gpu": 1}}}, r"unknown key kubeflow\.nodes\.Trainer\.gpu; did you mean gpus\?"),
        ({"defaults": {"memory": "4 GB"}}, r"kubeflow\.defaults\.memory: got '4 GB'"),
        ({"volume_claim": "Mine"}, r"kubeflow\.volume_claim: got 'Mine'"),
        ({"root": "../else"}, r"kubeflow: root is '\.\./else', expected a path below mount_path"),
        ({"run_as_user": 0}, r"kubeflow\.run_as_user: got 0"),
        ({"defaults": {"env": {"CUDA_VISIBLE_DEVICES": "0"}}}, r"CUDA_VISIBLE_DEVICES is set by the package itself"),
        (
            {"nodes": {"Trainer": {"tolerations": [{"operator": "Exists", "value": "x"}]}}},
            r"value is 'x' with operator 'Exists'",
        ),
    ],
    ids=["key", "memory", "claim", "root", "user", "variable", "toleration"],
)
def test_a_mistake_is_one_line(make_config: Callable[..., Config], kubeflow: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        make_config(kubeflow=kubeflow)
    assert len(str(raised.value).splitlines()) == 1


def test_settings_of_the_cluster_reach_no_node_but_the_report_which_shows_them(
    make_config: Callable[..., Config],
) -> None:
    paths = dag.Paths("/data", "/root")

    def nodes(config: Config) -> dict[str, bytes]:
        ir = compile_run(dag.create_pipeline(config, paths, None, [], fingerprint=lambda modules: ""), "run")
        found = [node.pipeline_node for node in ir.nodes]
        return {node.node_info.id: node.SerializeToString(deterministic=True) for node in found}

    here, there = nodes(make_config()), nodes(make_config(kubeflow={"defaults": {"memory": "64Gi"}}))
    assert {name for name in here if here[name] != there[name]} == {"Reporter"}


def test_another_package_of_the_name_stays_importable_beside_ours(tmp_path: Path) -> None:
    other = tmp_path / "kubeflow"
    other.mkdir()
    (other / "__init__.py").write_text('raise ImportError("the other one came first")')
    (other / "training.py").write_text("FOUND = True\n")
    program = (
        "import kubeflow.training, kubeflow.entry; kubeflow.entry.check_identity(); print(kubeflow.training.FOUND)"
    )
    root = Path(packages.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        cwd=tmp_path / "kubeflow",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


def test_a_container_that_finds_another_kubeflow_says_so(tmp_path: Path) -> None:
    root, other = Path(packages.__file__).parents[1], tmp_path / "kubeflow"
    other.mkdir()
    (other / "__init__.py").write_text((root / "kubeflow" / "__init__.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "kubeflow.verdict", "--root", str(tmp_path), "--run-id", "x"],
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"error: the package kubeflow is that of {other}, expected {root / 'kubeflow'}" in done.stderr


def test_the_wheel_ships_neither_kubeflow_nor_tests() -> None:
    program = (
        "import setuptools; setuptools.setup = lambda **given: print(*given['packages']); exec(open('setup.py').read())"
    )
    assert {name.partition(".")[0] for name in python("-c", program).split()} == {"flexunet"}


def test_a_full_disk_is_named_by_the_package(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    package = packages.Package(make_config(), "registry.example/flexunet:1", GRAPH)
    with small_disk(tmp_path / "full", 64) as disk:
        fill(disk)
        with pytest.raises(OSError) as caught:
            packages.write_package(package, disk / "p.yaml")
        assert words_of(caught.value).startswith(f"{disk / 'p.yaml'}: no space left on the disk, expected room")
        assert [path.name for path in disk.iterdir()] == ["filler"]
