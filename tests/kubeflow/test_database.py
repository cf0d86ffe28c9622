"""ML Metadata on PostgreSQL: what it cannot write by itself, and what is said of a wrong database."""

from pathlib import Path
from typing import Any

import pytest
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from postgres_server import Server
from tfx.orchestration import metadata

from flexunet.core.errors import UserError
from flexunet.history.database import DATABASE_VARIABLES as VARIABLES
from flexunet.history.database import connection_config, open_store
from kubeflow import database

TEXT = '{"config": "{\\"path\\": \\"C:\\\\new\\", \'quoted\'}"} \\'


def variables(secret: dict[str, str]) -> dict[str, str]:
    return {VARIABLES[key]: value for key, value in secret.items()}


@pytest.fixture
def secret(database_server: Server, request: Any) -> dict[str, str]:
    return database_server.create_database(f"test-{abs(hash(request.node.name))}")


def put_and_get(handle: metadata.Metadata) -> str:
    kind = metadata_store_pb2.ExecutionType(name="Node", properties={"text": metadata_store_pb2.STRING})
    execution = metadata_store_pb2.Execution(type_id=handle.store.put_execution_type(kind))
    execution.properties["text"].string_value = TEXT
    [identity] = handle.store.put_executions([execution])
    # What was given is not changed.
    assert execution.properties["text"].string_value == TEXT
    [found] = handle.store.get_executions_by_id([identity])
    return found.properties["text"].string_value


def test_ml_metadata_by_itself_cannot_write_a_backslash(secret: dict[str, str]) -> None:
    """When this fails, half of flexunet/history/postgresql.py can go."""
    unprotected = metadata.Metadata(connection_config(variables(secret)))
    with unprotected as handle, pytest.raises(errors.InternalError):
        put_and_get(handle)


def test_backslashes_and_quotes_come_back_as_they_were(secret: dict[str, str]) -> None:
    with database.PostgresqlMetadata(connection_config(variables(secret))) as handle:
        assert put_and_get(handle) == TEXT


def test_a_store_without_tfx_reads_what_a_node_wrote(secret: dict[str, str], tmp_path: Path) -> None:
    with database.PostgresqlMetadata(connection_config(variables(secret))) as handle:
        put_and_get(handle)
    [found] = open_store(tmp_path, variables(secret)).get_executions()
    assert found.properties["text"].string_value == TEXT


def answered_ids(handle: metadata.Metadata) -> list[int]:
    """Puts five artifacts, changes two of them, asks for four of them by id."""
    kind = metadata_store_pb2.ArtifactType(name="Kind")
    artifact = metadata_store_pb2.Artifact(type_id=handle.store.put_artifact_type(kind))
    ids = handle.store.put_artifacts([artifact] * 5)
    changed = handle.store.get_artifacts_by_id(ids[1:3])
    for found in changed:
        found.uri = "changed"
    handle.store.put_artifacts(changed)
    return [found.id - ids[0] for found in handle.store.get_artifacts_by_id([ids[3], ids[0], ids[2], ids[1]])]


def test_ml_metadata_by_itself_answers_in_another_order(secret: dict[str, str]) -> None:
    """When this fails, the other half can go, if it holds for every order."""
    with metadata.Metadata(connection_config(variables(secret))) as handle:
        assert answered_ids(handle) != [3, 0, 2, 1]


def test_what_is_asked_by_id_comes_in_the_order_of_the_question(secret: dict[str, str]) -> None:
    with database.PostgresqlMetadata(connection_config(variables(secret))) as handle:
        assert answered_ids(handle) == [3, 0, 2, 1]


def test_sqlite_is_refused_on_a_cluster() -> None:
    given = {**variables(dict.fromkeys(VARIABLES, "1")), VARIABLES["kind"]: "sqlite"}
    with pytest.raises(UserError, match="'sqlite', expected postgresql or mysql: the nodes of a cluster cannot share"):
        connection_config(given)


def test_what_the_secret_lacks_is_named() -> None:
    given = variables(dict.fromkeys(VARIABLES, "1"))
    del given[VARIABLES["password"]]
    with pytest.raises(UserError, match=r"^FLEXUNET_METADATA_PASSWORD: not set"):
        connection_config(given)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "postgresql",
            {
                "host": "h",
                "port": "5",
                "user": "u",
                "password": "p",
                "dbname": "d",
                "skipDbCreation": True,
                "ssloption": {"sslmode": "verify-full", "sslrootcert": "/ca.pem"},
            },
        ),
        (
            "mysql",
            {
                "host": "h",
                "port": "5",
                "user": "u",
                "password": "p",
                "database": "d",
                "skipDbCreation": True,
                "sslOptions": {"ca": "/ca.pem", "verifyServerCert": True},
            },
        ),
    ],
)
def test_a_managed_database_is_reached_by_tls(kind: str, expected: dict[str, Any]) -> None:
    from google.protobuf import json_format

    secret = {"kind": kind, "host": "h", "port": "5", "database": "d", "user": "u", "password": "p"}
    tls = {"FLEXUNET_METADATA_SSLMODE": "verify-full", "FLEXUNET_METADATA_SSLROOTCERT": "/ca.pem"}
    config = connection_config({**variables(secret), **tls})
    assert json_format.MessageToDict(config)[kind] == expected


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_ATTEMPTS", 1)
    monkeypatch.setattr(metadata, "_MAX_INIT_RETRY", 1)
    secret = {
        "kind": "postgresql",
        "host": "127.0.0.1",
        "port": "9",
        "database": "d",
        "user": "u",
        "password": "hidden",
    }
    with pytest.raises(UserError, match=r"^ML Metadata's database at 127\.0\.0\.1:9 cannot be used: ") as raised:
        database.open_database(variables(secret))
    assert len(str(raised.value).splitlines()) == 1 and "hidden" not in str(raised.value)
    # Without TFX, from the toolbox or through a forwarded port.
    with pytest.raises(UserError, match=r"^ML Metadata's database at 127\.0\.0\.1:9 cannot be used: ") as raised:
        open_store(tmp_path, variables(secret))
    assert len(str(raised.value).splitlines()) == 1 and "hidden" not in str(raised.value)
