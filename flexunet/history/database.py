"""Where ML Metadata of a folder of runs is: in a file there, or on a server that the environment names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import ml_metadata as mlmd
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2

from flexunet.core.errors import UserError, last_line
from flexunet.core.root import Root
from flexunet.history.postgresql import protect

# Keys of the secret of a cluster, and the variables that they become in each pod.
DATABASE_VARIABLES: Final = {
    key: f"FLEXUNET_METADATA_{key.upper()}" for key in ("kind", "host", "port", "database", "user", "password")
}
# `sslrootcert` is a path inside the container: that of a certificate in the image or on the volume.
OPTIONAL_VARIABLES: Final = {key: f"FLEXUNET_METADATA_{key.upper()}" for key in ("sslmode", "sslrootcert")}


def is_known(root: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ML Metadata of the runs in `root` can be asked from here."""
    return Root(root).metadata.is_file() or DATABASE_VARIABLES["kind"] in environment


def whereabouts(root: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Where ML Metadata is, in words."""
    path = Root(root).metadata
    return str(path) if path.is_file() or not is_known(root, environment) else f"the database at {address(environment)}"


def open_store(root: Path, environment: Mapping[str, str] = os.environ) -> mlmd.MetadataStore:
    """ML Metadata of the runs in `root`.

    Raises:
      UserError: no run was ever started there, or the server cannot be reached.
    """
    check_root(root, environment)
    path = Root(root).metadata
    if path.is_file():
        try:
            return mlmd.MetadataStore(sqlite_connection(path))
        # ML Metadata has no error of its own for this.
        except RuntimeError as error:
            what = f"not a database of ML Metadata ({last_line(error)})"
            raise UserError(f"{path}: {what}: restore or remove it") from None
    try:
        return connect(connection_config(environment))
    except (errors.StatusError, RuntimeError) as error:
        where = address(environment)
        raise UserError(f"ML Metadata's database at {where} cannot be used: {last_line(error)}") from None


def check_root(root: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError where no run was ever started."""
    if not is_known(root, environment):
        raise UserError(
            f"{root}: no {Root(root).metadata.name}, expected the --root of `flexunet run` or `flexunet demo`; of a "
            f"cluster, {DATABASE_VARIABLES['kind']} and the other variables of its database"
        )


def connect(connection: metadata_store_pb2.ConnectionConfig) -> mlmd.MetadataStore:
    """A store that PostgreSQL does not trip."""
    store = mlmd.MetadataStore(connection)
    if connection.WhichOneof("config") == "postgresql":
        protect(store)
    return store


def sqlite_connection(database: Path) -> metadata_store_pb2.ConnectionConfig:
    """Connection to the file that a run on one machine keeps its metadata in."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    return connection


def address(environment: Mapping[str, str]) -> str:
    """Address of the server, without anything secret."""
    return f"{environment.get(DATABASE_VARIABLES['host'])}:{environment.get(DATABASE_VARIABLES['port'])}"


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
    config = metadata_store_pb2.ConnectionConfig()
    target = config.mysql
    target.host, target.port, target.database = values["host"], int(values["port"]), values["database"]
    target.user, target.password = values["user"], values["password"]
    target.skip_db_creation = True
    if optional["sslrootcert"]:
        target.ssl_options.ca = optional["sslrootcert"]
        target.ssl_options.verify_server_cert = optional["sslmode"] == "verify-full"
    return config
