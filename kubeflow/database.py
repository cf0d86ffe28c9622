"""ML Metadata on a cluster: a PostgreSQL or MySQL server, told by the environment, which a Kubernetes secret fills."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable.mlmd import common_utils, context_lib
from tfx.proto.orchestration import pipeline_pb2

from flexunet.core.errors import UserError
from flexunet.core.lock import locked
from flexunet.history.database import address, connection_config
from flexunet.history.postgresql import protect
from kubeflow.files import LONGEST_WAIT

_ATTEMPTS: Final = 5

logger = logging.getLogger("flexunet.kubeflow")


class PostgresqlMetadata(metadata.Metadata):
    """TFX's handle with a store that PostgreSQL does not trip."""

    def __enter__(self) -> "PostgresqlMetadata":
        super().__enter__()
        protect(self.store)
        return self


def open_database(environment: Mapping[str, str], ir: pipeline_pb2.Pipeline, root: Path) -> metadata.Metadata:
    """The database with its schema and with every type and context of the pipeline.

    Nodes that start at once would race for them, and ML Metadata lets two of them make the same type twice: one at a
    time, by a lock on the volume that they share, below `root`.

    Raises:
      UserError: it cannot be reached.
    """
    connection = connection_config(environment)
    is_postgresql = connection.WhichOneof("config") == "postgresql"
    database = PostgresqlMetadata(connection) if is_postgresql else metadata.Metadata(connection)
    with locked(root / "kubeflow", wait_seconds=LONGEST_WAIT):
        error = _tried_often(lambda: _register(database, ir))
    if error is not None:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"ML Metadata's database at {address(environment)} cannot be used: {reason}") from error
    return database


def _tried_often(register: Callable[[], None]) -> Exception | None:
    """None when it worked, else the last error."""
    last: Exception | None = None
    for attempt in range(_ATTEMPTS):
        try:
            register()
        # TFX turns errors of the connection into RuntimeError.
        except (errors.StatusError, RuntimeError) as error:
            logger.info("ML Metadata, attempt %d: %s", attempt + 1, error)
            last = error
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311  no secret
        else:
            return None
    return last


def _register(database: metadata.Metadata, ir: pipeline_pb2.Pipeline) -> None:
    with database as handle:
        # The launcher makes it when a node looks into the cache.
        cache = metadata_store_pb2.ContextType(name=context_lib.CONTEXT_TYPE_EXECUTION_CACHE)
        common_utils.register_type_if_not_exist(handle, cache)
        for node in (node.pipeline_node for node in ir.nodes):
            context_lib.prepare_contexts(handle, node.contexts)
            common_utils.register_type_if_not_exist(handle, node.node_info.type)
            for output in node.outputs.outputs.values():
                common_utils.register_type_if_not_exist(handle, output.artifact_spec.type)
