"""The records' schema, from the feature names: SchemaGen would infer an integer domain for ids such as "0042"."""

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx.dsl.component.experimental.decorators import component
from tfx.utils import io_utils

from flexunet.core import features
from flexunet.core.config.data import SchemaConfig

# Jensen-Shannon divergence, 0 to 1. Random halves of generated surfaces differ by up to 0.30 with 30 images each, 0.09
# with 100 and 0.04 with 400; the same surfaces darkened by 20 grey levels by 0.34.
_DRIFT_THRESHOLD = 0.2


def record_schema(config: SchemaConfig) -> schema_pb2.Schema:
    """What every record must hold, image and mask as encoded images, an id and, where configured, a group; and what it
    may hold, the numbers by which spans are compared.
    """
    records = config.records
    schema = schema_pb2.Schema()
    for key in (records.image, records.mask):
        _add_string(schema, key).image_domain.SetInParent()
    _add_string(schema, records.id)
    if records.group:
        _add_string(schema, records.group)
    shares = [features.share_key(c.name) for c in config.classes]
    for key in (features.IMAGE_BRIGHTNESS, *shares):
        feature = schema.feature.add(name=key, type=schema_pb2.FLOAT)
        feature.drift_comparator.jensen_shannon_divergence.threshold = _DRIFT_THRESHOLD
    return schema


def _add_string(schema: schema_pb2.Schema, key: str) -> schema_pb2.Feature:
    feature = schema.feature.add(name=key, type=schema_pb2.BYTES)
    feature.shape.dim.add(size=1)
    feature.presence.min_fraction = 1.0
    return feature


@component
def RecordSchema(
    config: tfx.dsl.components.Parameter[str],
    code: tfx.dsl.components.Parameter[str],
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
) -> None:
    """Writes `schema.pbtxt`; `config` is SchemaConfig as JSON, `code` the fingerprint that keys the cache."""
    del code
    io_utils.write_pbtxt_file(f"{schema.uri}/schema.pbtxt", record_schema(SchemaConfig.model_validate_json(config)))
