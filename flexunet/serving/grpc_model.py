"""TF Serving over gRPC."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.transport import Closing, Options, ServingError
from flexunet.serving.wire import PREDICT, from_tensor, predict_request

# gRPC itself waits between tries, with jitter, and keeps to the deadline; it tries at most five times.
_RETRY: Final = {
    "initialBackoff": "0.1s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}


class GrpcModel(Closing):
    """A model behind `host:port`."""

    def __init__(self, address: str, secure: bool, options: Options) -> None:
        self._address, self._options = address, options
        settings = _channel_options(options)
        self._channel = (
            grpc.secure_channel(address, _credentials(options), settings)
            if secure
            else grpc.insecure_channel(address, settings)
        )
        self._predict: Any = self._channel.unary_unary(
            PREDICT,
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Calls a signature: see `flexunet.serving.transport.Model.run`."""
        request = predict_request(signature, inputs, outputs, self._options.model_name, self._options.version)
        limit = self._options.max_message_bytes
        if request.ByteSize() > limit:
            raise ServingError(
                f"{self._address}: a request of {request.ByteSize()} bytes, at most {limit} are sent: "
                "send fewer images at once or raise the limit"
            )
        try:
            response = self._predict(request, timeout=self._options.deadline)
        except grpc.RpcError as error:
            raise ServingError(f"grpc://{self._address}: {_explain(error, self._options)}") from error
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    def close(self) -> None:
        self._channel.close()


def _channel_options(options: Options) -> list[tuple[str, Any]]:
    limit = options.max_message_bytes
    settings: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", limit),
        # gRPC's own limit is 4 MB, which one large mask exceeds.
        ("grpc.max_receive_message_length", limit),
        # A request that does not fit in here, 256 KB by default, would not be tried again.
        ("grpc.per_rpc_retry_buffer_size", limit),
    ]
    if options.attempts > 1:
        retry = {**_RETRY, "maxAttempts": min(options.attempts, 5)}
        settings.append(("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})))
    else:
        settings.append(("grpc.enable_retries", 0))
    return settings


def _credentials(options: Options) -> grpc.ChannelCredentials:
    authority, key, certificate = (
        _read(path) for path in (options.certificate_authority, options.key, options.certificate)
    )
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _read(path: Path | None) -> bytes | None:
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such file, expected a PEM file")
    return path.read_bytes() if path else None


def _explain(error: Any, options: Options) -> str:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {options.deadline:g} s"
    details = " ".join(str(error.details()).split())
    return f"{error.code().name}: {details}"
