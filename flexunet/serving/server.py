"""A small server with TF Serving's own interfaces, for development and for the client's tests. Not for production.

It answers gRPC Predict and GetModelStatus, and REST `:predict` and status, for one model, through the session that TF
Serving uses. It does not batch, reload, limit or watch anything.
"""

import base64
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import grpc
import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.c_api import SavedModel, SavedModelError, Signature
from flexunet.serving.dtypes import DTYPES
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.versions import model_directory
from flexunet.serving.wire import AVAILABLE, MODEL_NAME, MODEL_STATUS, PREDICT, as_strings, from_tensor, to_tensor

_PATH: Final = re.compile(r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?(?P<action>:predict)?")
_DEFAULT_SIGNATURE: Final = "serving_default"
_THREADS: Final = 4
_MAX_MESSAGE_BYTES: Final = 256 * 2**20


class NotFound(Exception):
    """A model, version or address that this server does not have."""


class Server:
    """Both interfaces on one model; a context manager that stops them. Port 0 takes a free one.

    Raises:
      UserError: no model, or a port that is taken.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1", grpc_port: int = 8500, rest_port: int = 8501) -> None:
        self._directory = model_directory(directory)
        name = self._directory.name
        self._version = int(name) if name.isdigit() else 1
        try:
            self._model = SavedModel(self._directory)
        except SavedModelError as error:
            raise UserError(str(error).splitlines()[0]) from error
        self._grpc = self._start_grpc(host, grpc_port)
        self._rest = self._start_rest(host, rest_port)
        self.rest_port: int = self._rest.server_address[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets requests that are under way end, for at most five seconds."""
        self._grpc.stop(grace=5).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._model.close()

    def predict(self, request: pb.PredictRequest) -> pb.PredictResponse:
        """Raises NotFound, or SavedModelError or ValueError for what the model refuses."""
        spec = request.model_spec
        self.check(spec.name, spec.version.value if spec.HasField("version") else None)
        signature = spec.signature_name or _DEFAULT_SIGNATURE
        inputs = {name: from_tensor(tensor) for name, tensor in request.inputs.items()}
        outputs = self._model.run(signature, inputs)
        wanted = request.output_filter or outputs
        answered = pb.ModelSpec(name=spec.name, signature_name=signature, version=pb.Version(value=self._version))
        return pb.PredictResponse(outputs={n: to_tensor(outputs[n]) for n in wanted}, model_spec=answered)

    def predict_json(self, body: Any) -> dict[str, Any]:
        """TF Serving's REST: rows in `instances`, or columns in `inputs`."""
        if not isinstance(body, dict):
            raise ValueError("the body is no JSON object")
        name = body.get("signature_name", _DEFAULT_SIGNATURE)
        if name not in self._model.signatures:
            raise ValueError(f"Serving signature name: {name!r} not found in signature def")
        signature = self._model.signatures[name]
        if ("instances" in body) == ("inputs" in body):
            raise ValueError("Missing 'inputs' or 'instances' key, expected one of them")
        rows = "instances" in body
        columns = _columns(body["instances"]) if rows else body["inputs"]
        outputs = self._model.run(name, _arrays(columns, signature))
        spelled = {key: _spell(key, array) for key, array in outputs.items()}
        if rows:
            return {"predictions": _rows(spelled)}
        return {"outputs": spelled if len(spelled) > 1 else next(iter(spelled.values()))}

    def status(self) -> list[tuple[int, int]]:
        """Version and state of what is served."""
        return [(self._version, AVAILABLE)]

    def check(self, name: str, version: int | None) -> None:
        """Raises NotFound unless that is what is served."""
        if name != MODEL_NAME or version not in {None, self._version}:
            wanted = name if version is None else f"{name}, version {version}"
            raise NotFound(f"Servable not found for request: {wanted}; here is {MODEL_NAME}, version {self._version}")

    def _start_grpc(self, host: str, port: int) -> grpc.Server:
        limits = [(f"grpc.max_{way}_message_length", _MAX_MESSAGE_BYTES) for way in ("send", "receive")]
        # Without it a second server on the same port would silently share it.
        server = grpc.server(ThreadPoolExecutor(_THREADS), options=[*limits, ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_Methods(self),))
        try:
            self.grpc_port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise UserError(
                f"{host}:{port}: the port is taken or not allowed; choose another with --grpc-port"
            ) from None
        server.start()
        return server

    def _start_rest(self, host: str, port: int) -> ThreadingHTTPServer:
        try:
            server = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            self._grpc.stop(grace=None)
            raise UserError(f"{host}:{port}: {error.strerror}; choose another with --rest-port") from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self._handlers = {
            PREDICT: grpc.unary_unary_rpc_method_handler(
                lambda request, context: _answer(context, lambda: server.predict(request)),
                pb.PredictRequest.FromString,
                pb.PredictResponse.SerializeToString,
            ),
            MODEL_STATUS: grpc.unary_unary_rpc_method_handler(
                lambda request, context: _answer(context, lambda: _status(server, request)),
                pb.GetModelStatusRequest.FromString,
                pb.GetModelStatusResponse.SerializeToString,
            ),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def _answer(context: Any, call: Any) -> Any:
    try:
        return call()
    except NotFound as error:
        context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    except (SavedModelError, ValueError, KeyError) as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _status(server: Server, request: pb.GetModelStatusRequest) -> pb.GetModelStatusResponse:
    server.check(request.model_spec.name, None)
    states = [pb.ModelVersionStatus(version=version, state=state) for version, state in server.status()]
    return pb.GetModelStatusResponse(model_version_status=states)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body go out as two packets: with Nagle's algorithm the second waits 40 ms for an acknowledgement.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._respond(self._get)

        def do_POST(self) -> None:
            self._respond(self._post)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            """Says nothing."""

        def _get(self) -> Any:
            self._model()
            return {"model_version_status": [{"version": str(v), "state": "AVAILABLE"} for v, _ in server.status()]}

        def _post(self) -> Any:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= _MAX_MESSAGE_BYTES:
                raise ValueError(f"a body of {length} bytes, expected from 1 to {_MAX_MESSAGE_BYTES}")
            body = self.rfile.read(length)
            if self._model() is None:
                raise NotFound(f"POST {self.path}, expected /v1/models/{MODEL_NAME}:predict")
            return server.predict_json(json.loads(body))

        def _model(self) -> str | None:
            found = _PATH.fullmatch(self.path)
            if found is None:
                raise NotFound(f"Malformed request: {self.path}")
            server.check(found["name"], int(found["version"]) if found["version"] else None)
            return found["action"]

        def _respond(self, call: Any) -> None:
            try:
                status, answer = 200, call()
            except NotFound as error:
                status, answer = 404, {"error": str(error)}
            except (SavedModelError, ValueError, KeyError, TypeError) as error:
                status, answer = 400, {"error": str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _columns(instances: Any) -> Any:
    """Rows as columns; a row of a signature with one input may be the bare value."""
    if not isinstance(instances, list) or not instances:
        raise ValueError("'instances' must be a list with at least one row")
    if not all(isinstance(row, dict) and set(row) != {"b64"} for row in instances):
        return instances
    return {name: [row[name] for row in instances] for name in instances[0]}


def _arrays(columns: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not isinstance(columns, dict) or set(columns) == {"b64"}:
        if len(signature.inputs) > 1:
            raise ValueError("a plain value, but expecting an object as there are several inputs")
        columns = {next(iter(signature.inputs)): columns}
    return {name: _array(values, signature, name) for name, values in columns.items()}


def _array(values: Any, signature: Signature, name: str) -> np.ndarray:
    dtype = signature.inputs[name].dtype if name in signature.inputs else DTYPES[1]
    if dtype.hasobject:
        return as_strings([_string(value) for value in values])
    return np.array(values, dtype)


def _string(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode()
    raise ValueError(f"{value!r} where a string or an object with 'b64' is expected")


def _spell(name: str, array: np.ndarray) -> Any:
    """An output in the JSON form of TF Serving: strings are base64 only where the output's name ends in `_bytes`."""
    if not array.dtype.hasobject:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in array]
    # TF Serving would write the bytes as they are, which is no JSON; one character for each byte keeps them.
    return [item.decode("latin-1") for item in array]


def _rows(spelled: dict[str, list[Any]]) -> list[Any]:
    if len(spelled) == 1:
        return next(iter(spelled.values()))
    return [dict(zip(spelled, row, strict=True)) for row in zip(*spelled.values(), strict=True)]
