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
from flexunet.core.root import Root
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


def prepare_database(
    environment: Mapping[str, str], ir: pipeline_pb2.Pipeline, root: Path
) -> metadata_store_pb2.ConnectionConfig:
    """Puts the schema and every type and context of a run into the database; how to reach it.

    Nodes that start at once would race for them, and ML Metadata lets two of them make the same type twice. So the
    first step makes them all, and of several runs one at a time, by a lock on the volume that they share, below `root`.

    Raises:
      UserError: it cannot be reached.
    """
    database = _database(environment)
    with locked(Root(root).kubeflow, wait_seconds=LONGEST_WAIT):
        _try_often(lambda: _register(database, ir), environment)
    return database.connection_config


def open_database(environment: Mapping[str, str]) -> metadata.Metadata:
    """The database that the first step of the run has prepared.

    Raises:
      UserError: it cannot be reached.
    """
    database = _database(environment)
    _try_often(lambda: _look_into(database), environment)
    return database


def _database(environment: Mapping[str, str]) -> metadata.Metadata:
    connection = connection_config(environment)
    is_postgresql = connection.WhichOneof("config") == "postgresql"
    return PostgresqlMetadata(connection) if is_postgresql else metadata.Metadata(connection)


def _try_often(action: Callable[[], None], environment: Mapping[str, str]) -> None:
    """Until it works.

    Raises:
      UserError: it never did.
    """
    last: Exception | None = None
    for attempt in range(_ATTEMPTS):
        try:
            action()
        # TFX turns errors of the connection into RuntimeError.
        except (errors.StatusError, RuntimeError) as error:
            logger.info("ML Metadata, attempt %d: %s", attempt + 1, error)
            last = error
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311  no secret
        else:
            return
    reason = str(last).strip().splitlines()[-1]
    raise UserError(f"ML Metadata's database at {address(environment)} cannot be used: {reason}") from last


def _look_into(database: metadata.Metadata) -> None:
    with database:
        pass


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
