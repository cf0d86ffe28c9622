"""ML Metadata on a cluster: a PostgreSQL or MySQL server, told by the environment, which a Kubernetes secret fills."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable.mlmd import common_utils, context_lib

from flexunet.core.errors import UserError
from flexunet.core.lock import locked
from kubeflow.environment import DATABASE_VARIABLES, OPTIONAL_VARIABLES
from kubeflow.files import LONGEST_WAIT
from kubeflow.postgresql import PostgresqlMetadata

_ATTEMPTS: Final = 5

logger = logging.getLogger("flexunet.kubeflow")


def connection_config(environment: Mapping[str, str]) -> metadata_store_pb2.ConnectionConfig:
    """How to reach the database, from `FLEXUNET_METADATA_*`.

    Raises:
      UserError: a variable is missing, or it is a kind that nodes on several machines cannot share.
    """
    missing = [variable for variable in DATABASE_VARIABLES.values() if not environment.get(variable)]
    if missing:
        raise UserError(f"{', '.join(missing)}: not set, expected from the secret of ML Metadata's database")
    values = {key: environment[variable] for key, variable in DATABASE_VARIABLES.items()}
    optional = {key: environment.get(variable, "") for key, variable in OPTIONAL_VARIABLES.items()}
    kinds = {"postgresql": _postgresql, "mysql": _mysql}
    if values["kind"] not in kinds:
        raise UserError(
            f"{DATABASE_VARIABLES['kind']} is {values['kind']!r}, expected postgresql or mysql: "
            "the nodes of a cluster cannot share a SQLite file"
        )
    if not values["port"].isdigit():
        raise UserError(f"{DATABASE_VARIABLES['port']} is {values['port']!r}, expected a number")
    return kinds[values["kind"]](values, optional)


def open_database(environment: Mapping[str, str], ir: Any, root: Path) -> metadata.Metadata:
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
        where = f"{environment[DATABASE_VARIABLES['host']]}:{environment[DATABASE_VARIABLES['port']]}"
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"ML Metadata's database at {where} cannot be used: {reason}") from error
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


def _register(database: metadata.Metadata, ir: Any) -> None:
    with database as handle:
        # The launcher makes it when a node looks into the cache.
        cache = metadata_store_pb2.ContextType(name=context_lib.CONTEXT_TYPE_EXECUTION_CACHE)
        common_utils.register_type_if_not_exist(handle, cache)
        for node in (node.pipeline_node for node in ir.nodes):
            context_lib.prepare_contexts(handle, node.contexts)
            common_utils.register_type_if_not_exist(handle, node.node_info.type)
            for output in node.outputs.outputs.values():
                common_utils.register_type_if_not_exist(handle, output.artifact_spec.type)


def _postgresql(values: Mapping[str, str], optional: Mapping[str, str]) -> metadata_store_pb2.ConnectionConfig:
    config = metadata_store_pb2.ConnectionConfig()
    target = config.postgresql
    target.host, target.port, target.dbname = values["host"], values["port"], values["database"]
    target.user, target.password = values["user"], values["password"]
    # Least rights: the account may not create databases.
    target.skip_db_creation = True
    if optional["sslmode"]:
        target.ssloption.sslmode = optional["sslmode"]
    if optional["sslrootcert"]:
        target.ssloption.sslrootcert = optional["sslrootcert"]
    return config


def _mysql(values: Mapping[str, str], optional: Mapping[str, str]) -> metadata_store_pb2.ConnectionConfig:
    config = metadata.mysql_metadata_connection_config(
        values["host"], int(values["port"]), values["database"], values["user"], values["password"]
    )
    config.mysql.skip_db_creation = True
    if optional["sslrootcert"]:
        config.mysql.ssl_options.ca = optional["sslrootcert"]
        config.mysql.ssl_options.verify_server_cert = optional["sslmode"] == "verify-full"
    return config
