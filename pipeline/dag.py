"""The only wiring: every runner compiles the pipeline that this function returns."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.dsl.components.base import base_beam_component, base_node
from tfx.types import standard_artifacts

from components import (
    baseline,
    drift,
    evaluated_model,
    mask_validator,
    model_importer,
    pusher,
    record_gen,
    record_schema,
    record_verdict,
    reporter,
    segmentation_metrics,
    serving_validator,
    tuner,
    warm_start,
)
from flexunet.core import features
from flexunet.core.beam import beam_arguments
from flexunet.core.config.beam import BeamConfig
from flexunet.core.config.card import PushSettings
from flexunet.core.config.data import SchemaConfig, TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.report import ReportSettings
from flexunet.core.config.section import Section, part_of
from flexunet.core.config.serving import ServingConfig, ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.tune import TunerConfig
from flexunet.core.config.whole import Config
from flexunet.core.encoder_file import encoder_digest
from flexunet.core.operating_point import DefectRule
from flexunet.core.root import Root
from flexunet.dataset.manifest import MANIFEST, newest_spans
from flexunet.serving.signing import key_fingerprint
from flexunet.serving.versions import content_hash
from pipeline.evaluation import make_eval_config
from pipeline.fingerprint import code_fingerprint

PREPROCESSING_FN = "transform_module.preprocessing.preprocessing_fn"
RUN_FN = "trainer_module.trainer.run_fn"
TUNER_FN = "trainer_module.tuner.tuner_fn"


@dataclass(frozen=True)
class Paths:
    """Folders and database of one pipeline."""

    data: str
    root: str
    # The newest span to read; None: the newest there is.
    span: int | None = None

    @property
    def runs(self) -> Root:
        """What lies where in `root`."""
        return Root(Path(self.root))


def create_pipeline(
    config: Config,
    paths: Paths,
    metadata_connection: metadata_store_pb2.ConnectionConfig | None,
    beam_args: Sequence[str] = (),
    fingerprint: Callable[[Sequence[str]], str] = code_fingerprint,
    accepted_refused: str = "",
    from_model: Path | None = None,
) -> tfx.dsl.Pipeline:
    """The pipeline from records to a served model and a report.

    Each node gets only the sections of the configuration that it reads and the fingerprint of only the code that it
    runs, so that the cache holds exactly where it should.

    Args:
      config: the whole configuration.
      paths: where the records are and where everything goes.
      metadata_connection: ML Metadata's database; None where it is told to each node.
      beam_args: more of Apache Beam's arguments, after those of `[beam]`.
      fingerprint: from module names to a hash of their code.
      accepted_refused: a person's reason to push the model although the gate refuses it; "" for none.
      from_model: the folder of an export that is judged instead of training one.

    Raises:
      UserError: the file of the encoder's weights cannot be read.
    """
    settings = Settings(config, paths, fingerprint, accepted_refused)
    data = data_nodes(settings)
    training = importing_nodes(settings, data, from_model) if from_model else training_nodes(settings, data)
    components = [*data, *training.nodes, *judging_nodes(settings, data, training)]
    _add_beam_arguments(components, config.beam, beam_args)
    return tfx.dsl.Pipeline(
        pipeline_name="flexunet",
        pipeline_root=paths.root,
        components=components,
        enable_cache=True,
        metadata_connection_config=metadata_connection,
    )


@dataclass(frozen=True)
class Settings:
    """What nodes are made from; `accepted_refused` is a person's reason to overrule the gate, or ""."""

    config: Config
    paths: Paths
    fingerprint: Callable[[Sequence[str]], str]
    accepted_refused: str

    def code(self, *modules: str) -> str:
        """The fingerprint of what a node runs."""
        return self.fingerprint(modules)

    def part(self, part: type[Section]) -> str:
        """The sections that a node reads, as JSON."""
        return part_of(self.config, part).model_dump_json()


class DataNodes(NamedTuple):
    """From record files to statistics, and whether they may be learnt from."""

    examples: base_node.BaseNode
    schema: base_node.BaseNode
    statistics: base_node.BaseNode
    example_validator: base_node.BaseNode
    previous_statistics: base_node.BaseNode
    drift_reporter: base_node.BaseNode
    validator: base_node.BaseNode


def data_nodes(settings: Settings) -> DataNodes:
    """Reads the spans, checks every record, and compares them with the span before."""
    spans, paths = settings.config.dataset.span_limit, settings.paths
    examples = record_gen.RecordGen(paths.data, spans, code=settings.code(record_gen.__name__), newest=paths.span)
    schema = record_schema.RecordSchema(config=settings.part(SchemaConfig), code=settings.code(record_schema.__name__))
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"], schema=schema.outputs["schema"])
    example_validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    previous = tfx.dsl.Resolver(
        strategy_class=drift.PreviousSpanStatistics,
        current=statistics.outputs["statistics"],
        statistics=tfx.dsl.Channel(type=standard_artifacts.ExampleStatistics),
    ).with_id("PreviousSpanResolver")
    drift_reporter = drift.DriftReporter(
        statistics=statistics.outputs["statistics"],
        previous=previous.outputs["statistics"],
        schema=schema.outputs["schema"],
        measured=_measured_drift(paths),
        code=settings.code(drift.__name__),
    )
    validator = mask_validator.MaskValidator(
        examples=examples.outputs["examples"],
        anomalies=example_validator.outputs["anomalies"],
        config=settings.part(TransformConfig),
        expected=_expected_counts(paths, spans),
        code=settings.code(mask_validator.__name__),
    )
    return DataNodes(examples, schema, statistics, example_validator, previous, drift_reporter, validator)


class TrainingNodes(NamedTuple):
    """From records to an export; `nodes` in the order in which they run.

    `trainer` makes `model` and `model_run`; `tuner` makes `tuner_results`, where a search is asked for.
    """

    trainer: base_node.BaseNode
    nodes: list[base_node.BaseNode]
    tuner: base_node.BaseNode | None = None


def training_nodes(settings: Settings, data: DataNodes) -> TrainingNodes:
    """Transforms `train` and `eval`, searches where that is asked for, and trains."""
    config, transform = settings.config, _transform(settings, data)
    transformed = transform.outputs["transformed_examples"]
    base_models = [_warm_start(config, transformed)] if config.train.warm_start else []
    search = _tuner(settings, transformed) if config.tune.space.by_key() else None
    trainer = tfx.components.Trainer(
        examples=transformed,
        hyperparameters=search.outputs["best_hyperparameters"] if search else None,
        base_model=base_models[0].outputs["model"] if base_models else None,
        transform_graph=transform.outputs["transform_graph"],
        schema=data.schema.outputs["schema"],
        run_fn=RUN_FN,
        train_args=tfx.proto.TrainArgs(splits=[features.SPLIT_TRAIN]),
        eval_args=tfx.proto.EvalArgs(splits=[features.SPLIT_EVAL]),
        custom_config={
            **_custom_config(settings, TrainerConfig, RUN_FN),
            # Each run has a folder of its own; what a killed training resumes from must outlive it.
            "checkpoints": str(settings.paths.runs.checkpoints),
            # What is counted belongs to the gate, and matters to a training only where it chooses by such counts.
            **_encoder(config),
            **({"rule": json.dumps(_rule(config))} if config.operating_point.target else {}),
        },
    )
    return TrainingNodes(trainer, [transform, *([search] if search else []), *base_models, trainer], search)


def _transform(settings: Settings, data: DataNodes) -> base_node.BaseNode:
    transform = tfx.components.Transform(
        examples=data.examples.outputs["examples"],
        schema=data.schema.outputs["schema"],
        preprocessing_fn=PREPROCESSING_FN,
        # `test` is evaluated from the raw records.
        splits_config=tfx.proto.SplitsConfig(
            analyze=[features.SPLIT_TRAIN], transform=[features.SPLIT_TRAIN, features.SPLIT_EVAL]
        ),
        # Statistics of pixels would be computed twice and read by nobody; StatisticsGen has those of the records.
        disable_statistics=True,
        custom_config={
            **_custom_config(settings, TransformConfig, PREPROCESSING_FN),
            **({features.OWN_SIZE: "yes"} if settings.config.operating_point.target else {}),
        },
    )
    # Nothing is learnt from records that were not found good.
    transform.add_upstream_node(data.validator)
    return transform


def _tuner(settings: Settings, transformed: tfx.types.BaseChannel) -> tuner.Tuner:
    return tuner.Tuner(
        examples=transformed,
        tuner_fn=TUNER_FN,
        train_args=tfx.proto.TrainArgs(splits=[features.SPLIT_TRAIN]),
        eval_args=tfx.proto.EvalArgs(splits=[features.SPLIT_EVAL]),
        custom_config={
            "config": settings.part(TunerConfig),
            "code": settings.code("trainer_module.tuner", tuner.__name__),
            **_encoder(settings.config),
            # As with checkpoints: the folder of an execution is gone when it is killed.
            "directory": str(settings.paths.runs.tuning),
        },
    )


def importing_nodes(settings: Settings, data: DataNodes, model: Path) -> TrainingNodes:
    """Takes an export that exists instead of training one."""
    source, code = model.resolve(), settings.code(model_importer.__name__)
    importer = model_importer.ModelImporter(source=str(source), sha256=content_hash(source), code=code)
    # Nothing is judged by records that were not found good.
    importer.add_upstream_node(data.validator)
    return TrainingNodes(importer, [importer])


class Judged(NamedTuple):
    """What was found out about a model; `server` is TFX's InfraValidator, where there is one."""

    baseline: base_node.BaseNode
    evaluator: base_node.BaseNode
    serving: base_node.BaseNode
    server: base_node.BaseNode | None


def judging_nodes(settings: Settings, data: DataNodes, training: TrainingNodes) -> list[base_node.BaseNode]:
    """Compares with the baseline, judges, tries to serve, pushes and reports; in the order in which they run."""
    examples, model = data.examples.outputs["examples"], training.trainer.outputs["model"]
    baseline_model = _baseline(settings.config, model)
    gate = part_of(settings.config, GateSettings)
    code = settings.code(segmentation_metrics.__name__, evaluated_model.__name__)
    evaluator = tfx.components.Evaluator(
        # The raw records, through the exported graph: a difference between training and serving would show.
        examples=examples,
        example_splits=[features.SPLIT_TEST],
        model=model,
        baseline_model=baseline_model.outputs["model"],
        eval_config=make_eval_config(gate, code),
        module_path=evaluated_model.__name__,
    )
    serving = serving_validator.ServingValidator(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        examples=examples,
        settings=settings.part(ServingSettings),
        # The second module is what the node runs in a process of its own.
        code=settings.code(serving_validator.__name__, "flexunet.serving.validate"),
        accepted_refused=settings.accepted_refused,
    )
    servers = _infra_validators(settings.config.serving, model, examples, serving)
    judged = Judged(baseline_model, evaluator, serving, *servers or [None])
    push = _pusher(settings, data, training, judged)
    report = _reporter(settings, data, training, judged, push)
    return [baseline_model, evaluator, serving, *servers, push, report]


def _baseline(config: Config, candidate: tfx.types.BaseChannel) -> tfx.dsl.Resolver:
    return tfx.dsl.Resolver(
        strategy_class=baseline.LatestPushedModel,
        config={"comparable": _comparable(config)},
        candidate=candidate,
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        pushed_model=tfx.dsl.Channel(type=standard_artifacts.PushedModel),
    ).with_id("BaselineResolver")


def _pusher(settings: Settings, data: DataNodes, training: TrainingNodes, judged: Judged) -> pusher.AtomicPusher:
    serving = settings.config.serving
    return pusher.AtomicPusher(
        model=training.trainer.outputs["model"],
        model_blessing=judged.evaluator.outputs["blessing"],
        infra_blessing=judged.serving.outputs["blessing"],
        server_blessing=judged.server.outputs["blessing"] if judged.server else None,
        evaluation=judged.evaluator.outputs["evaluation"],
        examples=data.examples.outputs["examples"],
        baseline_model=judged.baseline.outputs["model"],
        validation=data.validator.outputs["validation"],
        directory=str(settings.paths.runs.serving),
        comparable=_comparable(settings.config),
        settings=settings.part(PushSettings),
        keep_versions=serving.keep_versions,
        mirror=serving.mirror,
        signing_key=serving.signing_key,
        code=settings.code(pusher.__name__) + _signer(serving.signing_key),
        accepted_refused=settings.accepted_refused,
    ).with_id("Pusher")


def _signer(private_key: str) -> str:
    """Fingerprint of the key; "" where there is none here, as where a package for a cluster is compiled."""
    return key_fingerprint(Path(private_key)) if private_key and Path(private_key).is_file() else ""


def _reporter(
    settings: Settings, data: DataNodes, training: TrainingNodes, judged: Judged, push: pusher.AtomicPusher
) -> reporter.Reporter:
    return reporter.Reporter(
        evaluation=judged.evaluator.outputs["evaluation"],
        model=training.trainer.outputs["model"],
        model_run=training.trainer.outputs["model_run"],
        pushed_model=push.outputs["pushed_model"],
        infra_blessing=judged.serving.outputs["blessing"],
        server_blessing=judged.server.outputs["blessing"] if judged.server else None,
        examples=data.examples.outputs["examples"],
        statistics=data.statistics.outputs["statistics"],
        validation=data.validator.outputs["validation"],
        drift=data.drift_reporter.outputs["drift"],
        baseline_model=judged.baseline.outputs["model"],
        tuner_results=training.tuner.outputs["tuner_results"] if training.tuner else None,
        settings=settings.part(ReportSettings),
        code=settings.code(reporter.__name__),
        accepted_refused=settings.accepted_refused,
    )


def _add_beam_arguments(components: Sequence[base_node.BaseNode], beam: BeamConfig, extra: Sequence[str]) -> None:
    for component in components:
        if isinstance(component, base_beam_component.BaseBeamComponent):
            component.with_beam_pipeline_args([*beam_arguments(beam.node(component.id)), *extra])


def _infra_validators(
    settings: ServingConfig, model: tfx.types.BaseChannel, examples: tfx.types.BaseChannel, after: base_node.BaseNode
) -> list[base_node.BaseNode]:
    """TFX's own, where Docker or Kubernetes exists: it starts TF Serving on the model and sends it test records."""
    if settings.infra_validator == "none":
        return []
    platform = {
        "local_docker": {"local_docker": tfx.proto.LocalDockerConfig()},
        "kubernetes": {"kubernetes": tfx.proto.KubernetesConfig()},
    }[settings.infra_validator]
    image, _, tag = settings.image.rpartition(":")
    serving = tfx.proto.TensorFlowServing(image_name=image, tags=[tag])
    request = tfx.proto.TensorFlowServingRequestSpec(signature_names=[features.SIGNATURE_EXAMPLES])
    validator = tfx.components.InfraValidator(
        model=model,
        examples=examples,
        serving_spec=tfx.proto.ServingSpec(tensorflow_serving=serving, **platform),
        request_spec=tfx.proto.RequestSpec(tensorflow_serving=request, split_name=features.SPLIT_TEST),
    )
    validator.add_upstream_node(after)
    return [validator]


def _warm_start(config: Config, examples: tfx.types.BaseChannel) -> tfx.dsl.Resolver:
    return tfx.dsl.Resolver(
        strategy_class=warm_start.WarmStartModel,
        config={"comparable": _comparable(config)},
        examples=examples,
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        pushed_model=tfx.dsl.Channel(type=standard_artifacts.PushedModel),
    ).with_id("WarmStartResolver")


def _rule(config: Config) -> DefectRule:
    return DefectRule(config.gate.defect_overlap, config.gate.false_alarm_share)


def _custom_config(settings: Settings, part: type[Section], function: str) -> dict[str, str]:
    # As one JSON string: inside custom_config tuples would come back as lists and integer keys as strings.
    return {"config": settings.part(part), "code": settings.code(function.rpartition(".")[0])}


def _encoder(config: Config) -> dict[str, str]:
    """What a training begins with, by its content: another file at the same path trains anew."""
    digest = encoder_digest(config.train)
    return {"encoder": digest} if digest else {}


def _expected_counts(paths: Paths, spans: int | None) -> str:
    """Counts of the records that the run will read; "null" where they were made elsewhere or cannot be seen."""
    data = Path(paths.data)
    is_described = (data / MANIFEST).is_file()
    return record_verdict.expected_counts(newest_spans(data, spans, paths.span) if is_described else None)


def _measured_drift(paths: Paths) -> str:
    """What ingest found of the newest span; "null" where records were made elsewhere or cannot be seen."""
    spans = newest_spans(Path(paths.data), 1, paths.span) if (Path(paths.data) / MANIFEST).is_file() else None
    return json.dumps(spans[0].get("drift") if spans else None)


def _comparable(config: Config) -> str:
    """Fingerprint of what two models must share to be measured alike: classes, records' keys, what `evaluate` gives."""
    shared = f"{features.EVALUATE_FORMAT} " + part_of(config, SchemaConfig).model_dump_json()
    return hashlib.sha256(shared.encode()).hexdigest()
