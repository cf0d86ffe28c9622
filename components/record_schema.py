"""The records' schema, from the feature names: SchemaGen would infer an integer domain for ids such as "0042"."""

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx.dsl.component.experimental.decorators import component
from tfx.utils import io_utils

from pipeline.config import RecordsConfig


def record_schema(records: RecordsConfig) -> schema_pb2.Schema:
    """What every record must hold: image and mask as encoded images, an id and, where configured, a group."""
    schema = schema_pb2.Schema()
    for key in (records.image, records.mask):
        _add_string(schema, key).image_domain.SetInParent()
    _add_string(schema, records.id)
    if records.group:
        _add_string(schema, records.group)
    return schema


def _add_string(schema: schema_pb2.Schema, key: str) -> schema_pb2.Feature:
    feature = schema.feature.add(name=key, type=schema_pb2.BYTES)
    feature.shape.dim.add(size=1)
    feature.presence.min_fraction = 1.0
    return feature


@component
def RecordSchema(
    records: tfx.dsl.components.Parameter[str],
    code: tfx.dsl.components.Parameter[str],
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
) -> None:
    """Writes `schema.pbtxt`; `records` is RecordsConfig as JSON, `code` the fingerprint that keys the cache."""
    del code
    io_utils.write_pbtxt_file(f"{schema.uri}/schema.pbtxt", record_schema(RecordsConfig.model_validate_json(records)))
