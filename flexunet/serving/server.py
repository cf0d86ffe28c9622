"""A small server with TF Serving's own interfaces and rules, for development and for tests. Not for production.

It answers gRPC Predict, GetModelStatus and GetModelMetadata, and REST `:predict`, status and metadata, for one model,
through the session that TF Serving uses, which also batches as it does there: the graph joins requests. It refuses what
TF Serving refuses, with its codes, and calls beyond the manifests' threads. It reloads only by a model server's
configuration: versions and labels of a file, see flexunet/serving/loaded.py.
"""

import contextlib
import functools
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from flexunet.core.errors import UserError
from flexunet.core.files import Json
from flexunet.core.listening import cannot_listen
from flexunet.serving import rest_json
from flexunet.serving.c_api import SavedModelError, Signature
from flexunet.serving.limits import CLIENT_SECONDS, CONNECTION_SECONDS, GRPC_THREADS, REST_THREADS
from flexunet.serving.loaded import ConfigFile, Loaded, MissingError, Polling, UnknownLabelError, Versions
from flexunet.serving.paths import PREDICT_PATH, STATUS_PATH
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.versions import model_directory
from flexunet.serving.wire import (
    AVAILABLE,
    MODEL_METADATA,
    MODEL_NAME,
    MODEL_STATUS,
    PREDICT,
    from_tensor,
    to_tensor,
)

_DEFAULT_SIGNATURE: Final = "serving_default"
_SIGNATURE_DEF: Final = "signature_def"
_SIGNATURE_DEF_TYPE: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_MAX_MESSAGE_BYTES: Final = 256 * 2**20
_LONGEST_WORDS_BYTES: Final = 1024
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# `ToHTTPStatusCode` of TF Serving's http_server.cc; the other codes are 500.
_HTTP: Final = {
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    14: 503,
    16: 401,
}

_Request = TypeVar("_Request", bound=Message)


class RefusedError(Exception):
    """What TF Serving refuses by itself, before the graph sees it; `code` is gRPC's."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(words)
        self.code: int = code.value[0]


class Server:
    """Both interfaces on one model; a context manager that stops them. Port 0 takes a free one.

    Args:
      source: a model's folder, its versions' folder, of which the newest is served, or a model server's configuration.
      poll_seconds: between looks at the configuration.
      check: raises UserError for a version's folder that must not be served.
      grpc_threads: calls under way; one more is answered RESOURCE_EXHAUSTED.
      rest_threads: requests under way; one more waits.
      connection_seconds: age of a gRPC connection that takes no more calls; its client makes another.

    Raises:
      UserError: no model, or nobody can listen there.
    """

    def __init__(
        self,
        source: Path | ConfigFile,
        host: str = "127.0.0.1",
        grpc_port: int = 8500,
        rest_port: int = 8501,
        grpc_threads: int = GRPC_THREADS,
        rest_threads: int = REST_THREADS,
        poll_seconds: float = 1.0,
        check: Callable[[Path], None] = lambda folder: None,
        connection_seconds: float = CONNECTION_SECONDS,
    ) -> None:
        self._versions = Versions(check)
        if isinstance(source, ConfigFile):
            source.apply(self._versions)
        else:
            directory = model_directory(source)
            self._versions.serve({int(directory.name) if directory.name.isdigit() else 1: directory})
        # First: gRPC does not say why it cannot listen. Where this could, the host is right.
        self._rest = self._start_rest(host, rest_port, rest_threads)
        self.rest_port: int = self._rest.server_address[1]
        self._grpc = self._start_grpc(host, grpc_port, grpc_threads, connection_seconds)
        self._polling = Polling(source, self._versions, poll_seconds) if isinstance(source, ConfigFile) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets requests that are under way end, for at most five seconds."""
        self._grpc.stop(grace=5).wait()
        self._close_rest()
        if self._polling:
            self._polling.close()
        self._versions.close()

    def _close_rest(self) -> None:
        self._rest.shutdown()
        self._rest.server_close()

    def predict(self, request: pb.PredictRequest, seconds: float | None = None) -> pb.PredictResponse:
        """The answer, if it is there within so many seconds: the caller's deadline.

        Raises:
          RefusedError, SavedModelError, ValueError: the server, the session or a tensor refuses it.
        """
        name = request.model_spec.signature_name or _DEFAULT_SIGNATURE
        with self._found(request.model_spec) as served:
            if name not in served.model.signatures:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
            signature = served.model.signatures[name]
            _check_names(request, signature)
            arrays = {key: from_tensor(tensor) for key, tensor in request.inputs.items()}
            outputs = served.model.run(name, arrays, seconds)
        answered = pb.ModelSpec(name=MODEL_NAME, signature_name=name, version=pb.Version(value=served.version))
        wanted = request.output_filter or outputs
        return pb.PredictResponse(outputs={n: to_tensor(outputs[n]) for n in wanted}, model_spec=answered)

    def predict_json(self, body: bytes, spec: pb.ModelSpec) -> dict[str, Json]:
        """The answer of `predict` to a REST request's body."""
        given, parsed = rest_json.parse(body)
        name = given or _DEFAULT_SIGNATURE
        with self._found(spec) as served:
            if name not in served.model.signatures:
                raise ValueError(f'Serving signature name: "{name}" not found in signature def')
            inputs, rows = rest_json.read_inputs(parsed, served.model.signatures[name])
            # As --rest_api_timeout_in_ms of the manifests.
            return rest_json.write_outputs(served.model.run(name, inputs, CLIENT_SECONDS), rows)

    def status(self, spec: pb.ModelSpec) -> pb.GetModelStatusResponse:
        """Raises RefusedError for another model or version."""
        if spec.name != MODEL_NAME:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        numbers = self._versions.numbers
        # A label is not looked at (`get_model_status_impl.cc`).
        if spec.HasField("version"):
            numbers = [number for number in numbers if number == spec.version.value]
            if not numbers:
                words = f"Could not find version {spec.version.value} of model {spec.name}"
                raise RefusedError(grpc.StatusCode.NOT_FOUND, words)
        return pb.GetModelStatusResponse(
            model_version_status=[
                pb.ModelVersionStatus(version=number, state=AVAILABLE, status=pb.Status()) for number in numbers
            ]
        )

    def metadata(self, request: pb.GetModelMetadataRequest) -> pb.GetModelMetadataResponse:
        """Raises RefusedError for another model or field."""
        if not request.metadata_field:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        with self._found(request.model_spec) as served:
            packed = pb.Packed(type_url=_SIGNATURE_DEF_TYPE, value=served.signatures.SerializeToString())
        spec = pb.ModelSpec(name=MODEL_NAME, version=pb.Version(value=served.version))
        return pb.GetModelMetadataResponse(model_spec=spec, metadata={_SIGNATURE_DEF: packed})

    def metadata_json(self, spec: pb.ModelSpec) -> dict[str, Json]:
        """The answer of `metadata` for REST."""
        with self._found(spec) as served:
            return rest_json.metadata(MODEL_NAME, served.version, served.signatures)

    @contextlib.contextmanager
    def _found(self, spec: pb.ModelSpec) -> Iterator[Loaded]:
        """Raises RefusedError unless that is served; a server without a configuration file knows no label."""
        if not spec.name:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        given = spec.version.value if spec.HasField("version") else None
        label = spec.version_label
        if spec.name != MODEL_NAME:
            if label:
                raise _unknown_label(label)
            raise _missing(spec.name, given)
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(self._versions.using(given, label))
            except UnknownLabelError:
                raise _unknown_label(label) from None
            except MissingError:
                raise _missing(spec.name, self._versions.labels.get(label, given)) from None
            yield found

    def _start_grpc(self, host: str, port: int, threads: int, connection_seconds: float) -> grpc.Server:
        ages = {"": connection_seconds, "_grace": CLIENT_SECONDS}
        options = [
            *((f"grpc.max_{way}_message_length", _MAX_MESSAGE_BYTES) for way in ("send", "receive")),
            *((f"grpc.max_connection_age{name}_ms", round(1000 * age)) for name, age in ages.items()),
            # Without it a second server on the same port would silently share it.
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(ThreadPoolExecutor(threads), options=options, maximum_concurrent_rpcs=threads)
        server.add_generic_rpc_handlers((_Methods(self),))
        try:
            self.grpc_port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self._close_rest()
            raise UserError(
                f"{host}:{port}: taken or not allowed, expected a free port: choose another with --grpc-port"
            ) from None
        server.start()
        return server

    def _start_rest(self, host: str, port: int, threads: int) -> ThreadingHTTPServer:
        try:
            server = _RestServer((host, port), functools.partial(_RestHandler, self, threading.Semaphore(threads)))
        except OSError as error:
            raise cannot_listen(host, port, error, "choose another with --rest-port") from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def _unknown_label(label: str) -> RefusedError:
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")


def _missing(name: str, version: int | None) -> RefusedError:
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return RefusedError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")


class _RestServer(ThreadingHTTPServer):
    # Of connections that nobody has taken yet; 5 by default, which 64 clients overrun.
    request_queue_size = 1024

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]
    ) -> None:
        """A client that goes away before its answer is no error, and no traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _check_names(request: pb.PredictRequest, signature: Signature) -> None:
    """As `PreProcessPrediction` of predict_util.cc: `VerifyRequestInputsSize`, then `GetInputValues`, then outputs."""
    sent, wanted, outputs = {*request.inputs}, signature.inputs.keys(), signature.outputs.keys()
    if len(sent) != len(wanted):
        raise RefusedError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{','.join(sorted(sent))}}}) != "
            f"len({{{','.join(sorted(wanted))}}}). Sent extra: {{{','.join(sorted(sent - wanted))}}}. "
            f"Missing but required: {{{','.join(sorted(wanted - sent))}}}.",
        )
    for missing in sorted(wanted - sent):
        raise RefusedError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Signature input alias: {missing}(feed name: {signature.inputs[missing].tensor_name}) not found in "
            "request and no default value provided. Inputs expected to be in the request "
            f"{{{','.join(sorted(sent))}}}, or default input alias set: ",
        )
    for alias in request.output_filter:
        if alias not in outputs:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{','.join(sorted(outputs))}}}.",
            )
        if list(request.output_filter).count(alias) > 1:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")


def _check_spec(request: Message) -> None:
    """As every one of TF Serving's calls begins: a model that is not named is not one without a name."""
    if not request.HasField("model_spec"):
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self._handlers = {
            PREDICT: _method(server.predict, pb.PredictRequest),
            MODEL_STATUS: _method(lambda request, _: server.status(request.model_spec), pb.GetModelStatusRequest),
            MODEL_METADATA: _method(lambda request, _: server.metadata(request), pb.GetModelMetadataRequest),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _method(call: Callable[[_Request, float | None], Message], request_type: type[_Request]) -> grpc.RpcMethodHandler:
    def answer(request: _Request, context: grpc.ServicerContext) -> Message | None:
        try:
            _check_spec(request)
            # One that is over already counts as none: `DeadlineToTimeoutMillis`, and 0 in RunOptions.
            return call(request, context.time_remaining() or None)
        except (RefusedError, SavedModelError) as error:
            context.abort(_CODES[error.code], _cut(str(error)))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, _cut(str(error)))

    return grpc.unary_unary_rpc_method_handler(
        answer, request_type.FromString, lambda response: response.SerializeToString()
    )


def _cut(words: str) -> str:
    """As `ToGRPCStatus`; without it, words that no header holds would reach the caller as another code.

    A header has three characters for each byte beyond ASCII.
    """
    content = words.encode()
    if len(content) <= _LONGEST_WORDS_BYTES:
        return words
    return f"{content[:_LONGEST_WORDS_BYTES].decode(errors='ignore')}...TRUNCATED"


class _RestHandler(BaseHTTPRequestHandler):
    """One connection to the REST interface; `free` counts the requests that may be under way."""

    protocol_version = "HTTP/1.1"
    # Headers and body go out as two packets: with Nagle's algorithm the second waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

    def __init__(
        self,
        served: Server,
        free: threading.Semaphore,
        request: socket.socket,
        client_address: tuple[str, int],
        server: _RestServer,
    ) -> None:
        self._served, self._free = served, free
        # Answers all requests of the connection.
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Says nothing."""

    def _get(self) -> Json:
        found = self._match(STATUS_PATH)
        if found["metadata"]:
            return self._served.metadata_json(_spec(found))
        status = self._served.status(_spec(found))
        return {"model_version_status": [_spell_status(version) for version in status.model_version_status]}

    def _post(self) -> Json:
        body = self._body()
        return self._served.predict_json(body, _spec(self._match(PREDICT_PATH)))

    def _body(self) -> bytes:
        """Raises ValueError for a length that is none or too large, and for chunks, which TF Serving takes."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _MAX_MESSAGE_BYTES:
            # What is not read would be taken for the next request.
            self.close_connection = True
            raise ValueError(
                f"Content-Length is {length!r}, expected that of the body, which is not in chunks: at most "
                f"{_MAX_MESSAGE_BYTES}"
            )
        return self.rfile.read(int(length))

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        words = f"Malformed request: {self.command} {self.path}"
        if not self.path.lower().startswith("/v1/"):
            raise RefusedError(grpc.StatusCode.NOT_FOUND, words)
        found = pattern.fullmatch(self.path)
        if found is None:
            raise ValueError(words)
        return found

    def _respond(self, call: Callable[[], Json]) -> None:
        with self._free:
            status, answer = _answered(call)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def _answered(call: Callable[[], Json]) -> tuple[int, Json]:
    """HTTP's status and the document of an answer, or of why there is none."""
    try:
        return 200, call()
    except (RefusedError, SavedModelError) as error:
        return _HTTP.get(error.code, 500), {"error": str(error)}
    except ValueError as error:
        return 400, {"error": str(error)}
    except RecursionError:
        return 400, {"error": "JSON Parse error: lists or objects within each other deeper than any input is"}


def _spec(found: re.Match[str]) -> pb.ModelSpec:
    version = pb.Version(value=int(found["version"])) if found["version"] else None
    return pb.ModelSpec(name=found["name"], version=version, version_label=found["label"] or "")


def _spell_status(status: pb.ModelVersionStatus) -> Json:
    words: Json = {"error_code": "OK", "error_message": status.status.error_message}
    return {"version": str(status.version), "state": "AVAILABLE", "status": words}
