"""The only wiring: every runner compiles the pipeline that this function returns."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.dsl.components.base import base_node
from tfx.types import standard_artifacts

from components import (
    baseline,
    drift,
    mask_validator,
    pusher,
    record_gen,
    record_schema,
    record_verdict,
    reporter,
    segmentation_metrics,
    serving_validator,
    warm_start,
)
from flexunet.core import features
from flexunet.core.config.data import SchemaConfig, TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.serving import ServingConfig, ServingSettings
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.root import Root
from flexunet.dataset.manifest import MANIFEST, newest_spans
from pipeline.evaluation import make_eval_config
from pipeline.fingerprint import code_fingerprint

PREPROCESSING_FN = "transform_module.preprocessing.preprocessing_fn"
RUN_FN = "trainer_module.trainer.run_fn"


@dataclass(frozen=True)
class Paths:
    """Where one pipeline reads and writes."""

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
    beam_args: Sequence[str],
    fingerprint: Callable[[Sequence[str]], str] = code_fingerprint,
    accepted_refused: str = "",
) -> tfx.dsl.Pipeline:
    """The pipeline from records to a served model and a report.

    Each node gets only the sections of the configuration that it reads and the fingerprint of only the code that it
    runs, so that the cache holds exactly where it should.

    Args:
      config: the whole configuration.
      paths: where the records are and where everything goes.
      metadata_connection: ML Metadata's database; None where it is told to each node.
      beam_args: options of the Beam runner.
      fingerprint: from module names to a hash of their code.
      accepted_refused: a person's reason to push the model although the gate refuses it; "" for none.
    """
    transform_config = part_of(config, TransformConfig).model_dump_json()
    examples = record_gen.RecordGen(
        paths.data, config.dataset.span_limit, code=fingerprint([record_gen.__name__]), newest=paths.span
    )
    schema = record_schema.RecordSchema(
        config=part_of(config, SchemaConfig).model_dump_json(), code=fingerprint([record_schema.__name__])
    )
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"], schema=schema.outputs["schema"])
    example_validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    previous_statistics = tfx.dsl.Resolver(
        strategy_class=drift.PreviousSpanStatistics,
        current=statistics.outputs["statistics"],
        statistics=tfx.dsl.Channel(type=standard_artifacts.ExampleStatistics),
    ).with_id("PreviousSpanResolver")
    drift_reporter = drift.DriftReporter(
        statistics=statistics.outputs["statistics"],
        previous=previous_statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        code=fingerprint([drift.__name__]),
    )
    validator = mask_validator.MaskValidator(
        examples=examples.outputs["examples"],
        anomalies=example_validator.outputs["anomalies"],
        config=transform_config,
        expected=_expected_counts(paths, config.dataset.span_limit),
        code=fingerprint([mask_validator.__name__]),
    )
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn=PREPROCESSING_FN,
        # `test` is evaluated from the raw records.
        splits_config=tfx.proto.SplitsConfig(
            analyze=[features.SPLIT_TRAIN], transform=[features.SPLIT_TRAIN, features.SPLIT_EVAL]
        ),
        # Statistics of pixels would be computed twice and read by nobody; StatisticsGen has those of the records.
        disable_statistics=True,
        custom_config=_custom_config(transform_config, PREPROCESSING_FN, fingerprint),
    )
    # Nothing is learnt from records that were not found good.
    transform.add_upstream_node(validator)
    transformed = transform.outputs["transformed_examples"]
    base_model = _warm_start(config, transformed) if config.train.warm_start else None
    trainer = tfx.components.Trainer(
        examples=transformed,
        base_model=base_model.outputs["model"] if base_model else None,
        transform_graph=transform.outputs["transform_graph"],
        schema=schema.outputs["schema"],
        run_fn=RUN_FN,
        train_args=tfx.proto.TrainArgs(splits=[features.SPLIT_TRAIN]),
        eval_args=tfx.proto.EvalArgs(splits=[features.SPLIT_EVAL]),
        custom_config={
            **_custom_config(part_of(config, TrainerConfig).model_dump_json(), RUN_FN, fingerprint),
            # Each run has a folder of its own; what a killed training resumes from must outlive it.
            "checkpoints": str(paths.runs.checkpoints),
        },
    )
    resolver = tfx.dsl.Resolver(
        strategy_class=baseline.LatestPushedModel,
        config={"comparable": _comparable(config)},
        candidate=trainer.outputs["model"],
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        pushed_model=tfx.dsl.Channel(type=standard_artifacts.PushedModel),
    ).with_id("BaselineResolver")
    settings = part_of(config, GateSettings)
    evaluator = tfx.components.Evaluator(
        # The raw records, through the exported graph: a difference between training and serving would show.
        examples=examples.outputs["examples"],
        example_splits=[features.SPLIT_TEST],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        eval_config=make_eval_config(settings, fingerprint([segmentation_metrics.__name__])),
    )
    serving = serving_validator.ServingValidator(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        examples=examples.outputs["examples"],
        settings=part_of(config, ServingSettings).model_dump_json(),
        # The second module is what the node runs in a process of its own.
        code=fingerprint([serving_validator.__name__, "flexunet.serving.validate"]),
        accepted_refused=accepted_refused,
    )
    servers = _infra_validators(config.serving, trainer.outputs["model"], examples.outputs["examples"], serving)
    push = pusher.AtomicPusher(
        channels={
            "model": trainer.outputs["model"],
            "model_blessing": evaluator.outputs["blessing"],
            "infra_blessing": serving.outputs["blessing"],
            "evaluation": evaluator.outputs["evaluation"],
            "examples": examples.outputs["examples"],
            "baseline_model": resolver.outputs["model"],
            **({"server_blessing": servers[0].outputs["blessing"]} if servers else {}),
        },
        directory=str(paths.runs.serving),
        comparable=_comparable(config),
        settings=settings.model_dump_json(),
        keep_versions=config.serving.keep_versions,
        mirror=config.serving.mirror,
        code=fingerprint([pusher.__name__]),
        accepted_refused=accepted_refused,
    ).with_id("Pusher")
    report = reporter.Reporter(
        channels={
            "evaluation": evaluator.outputs["evaluation"],
            "model": trainer.outputs["model"],
            "model_run": trainer.outputs["model_run"],
            "pushed_model": push.outputs["pushed_model"],
            "infra_blessing": serving.outputs["blessing"],
            "examples": examples.outputs["examples"],
            "statistics": statistics.outputs["statistics"],
            "validation": validator.outputs["validation"],
            "drift": drift_reporter.outputs["drift"],
            "baseline_model": resolver.outputs["model"],
        },
        settings=settings.model_dump_json(),
        code=fingerprint([reporter.__name__]),
    )
    return tfx.dsl.Pipeline(
        pipeline_name="flexunet",
        pipeline_root=paths.root,
        components=[
            examples,
            schema,
            statistics,
            example_validator,
            previous_statistics,
            drift_reporter,
            validator,
            transform,
            *([base_model] if base_model else []),
            trainer,
            resolver,
            evaluator,
            serving,
            *servers,
            push,
            report,
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection,
        beam_pipeline_args=list(beam_args),
    )


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


def _custom_config(config: str, function: str, fingerprint: Callable[[Sequence[str]], str]) -> dict[str, str]:
    # As one JSON string: inside custom_config tuples would come back as lists and integer keys as strings.
    return {"config": config, "code": fingerprint([function.rpartition(".")[0]])}


def _expected_counts(paths: Paths, spans: int | None) -> str:
    """Of the records that the run will read; "null" where they were made elsewhere or cannot be seen from here."""
    data = Path(paths.data)
    is_described = (data / MANIFEST).is_file()
    return record_verdict.expected_counts(newest_spans(data, spans, paths.span) if is_described else None)


def _comparable(config: Config) -> str:
    """Of what two models must share to be measured alike: classes, records' keys, what `evaluate` gives."""
    shared = f"{features.EVALUATE_FORMAT} " + config.model_dump_json(include={"classes", "records"})
    return hashlib.sha256(shared.encode()).hexdigest()
