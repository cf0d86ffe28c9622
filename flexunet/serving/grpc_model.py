"""TF Serving over gRPC."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from flexunet.core.errors import UserError
from flexunet.serving.limits import CLIENT_SECONDS
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.transport import (
    GIVEN_UP,
    UNKNOWN_LABEL,
    BusyError,
    NotServedError,
    Options,
    Remote,
    ServingError,
    UnknownLabelError,
    UnreachableError,
)
from flexunet.serving.wire import PREDICT, from_tensor, predict_request

# What the channel itself says of an answer that is too large, and when it is closed, under codes of a busy server.
_TOO_LARGE: Final = "larger than max"
_CLOSED: Final = "Channel closed"
# Codes that every other request will get as well.
_NOT_SERVED: Final = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}
# A server that vanishes, with its node or behind a firewall, says nothing, and TCP waits a quarter of an hour for it. A
# call that has heard nothing for so long, or half its deadline, asks whether anybody is there and waits so long to be
# told: it comes again in time. Twice in a call at most: gRPC's servers hang up at the fourth such ping in five minutes
# in which they say nothing else. The answer waits behind what a slow line has still to bring there, such as images of
# other calls: it has as long as gRPC's own `grpc.keepalive_timeout_ms` gives it.
_PING_SECONDS: Final = 30.0
_PONG_SECONDS: Final = 20.0
# What the channel says of a server that it cannot reach, under the code of a full queue: nothing else tells them apart.
_NOT_REACHED: Final = ("failed to connect", "errors resolving", "DNS resolution failed")


class GrpcModel(Remote):
    """A model behind `host:port`.

    Attributes:
      version: that gave the last answer; None before the first. Of several threads any one's.
    """

    def __init__(self, address: str, secure: bool, options: Options) -> None:
        super().__init__(options)
        self.version: int | None = None
        self._address = address
        settings = _channel_options(options)
        self._channel = (
            grpc.secure_channel(address, _credentials(options), settings)
            if secure
            else grpc.insecure_channel(address, settings)
        )
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )

    def ask(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Calls a signature: see `flexunet.serving.transport.Model.run`."""
        asked = self._options
        request = predict_request(signature, inputs, outputs, asked.model_name, asked.version, asked.label)
        limit = self._options.max_message_bytes
        if request.ByteSize() > limit:
            raise ServingError(
                f"{self._address}: a request of {request.ByteSize()} bytes, at most {limit} are sent: "
                "send fewer images at once or raise the limit"
            )
        response = self.patiently(lambda seconds: self._attempt(request, seconds))
        self.version = response.model_spec.version.value
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    def _attempt(self, request: pb.PredictRequest, seconds: float) -> pb.PredictResponse:
        # At a deadline TF Serving gives up the others of a batch, too: it is told none that is shorter than theirs, and
        # what is given up here sooner is answered to nobody.
        call = self._predict.future(request, timeout=max(self._options.deadline, CLIENT_SECONDS))
        try:
            return call.result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise self._too_late() from None
        except grpc.RpcError as error:
            raise self._as_ours(error) from error
        finally:
            call.cancel()

    def _too_late(self) -> ServingError:
        return ServingError(f"grpc://{self._address}: no answer within {self._options.deadline:g} s")

    def _as_ours(self, error: grpc.RpcError) -> ServingError:
        code, details = error.code(), " ".join(str(error.details()).split())
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_late()
        words = f"grpc://{self._address}: {code.name}: {details}"
        if code == grpc.StatusCode.UNAVAILABLE and any(start in details for start in _NOT_REACHED):
            return UnreachableError(words)
        if code == grpc.StatusCode.INVALID_ARGUMENT and details.startswith(UNKNOWN_LABEL):
            return UnknownLabelError(words)
        if code in _NOT_SERVED:
            return NotServedError(words)
        return BusyError(words) if _is_for_now(code, details) else ServingError(words)

    def close(self) -> None:
        self._channel.close()


def _is_for_now(code: grpc.StatusCode, details: str) -> bool:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return True
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _TOO_LARGE not in details
        case grpc.StatusCode.CANCELLED:
            return _CLOSED not in details
        case _:
            return GIVEN_UP in details


def _channel_options(options: Options) -> list[tuple[str, int]]:
    limit = options.max_message_bytes
    return [
        ("grpc.max_send_message_length", limit),
        # gRPC's own limit is 4 MB, which one large mask exceeds.
        ("grpc.max_receive_message_length", limit),
        # gRPC tries at most five times, within a second or two.
        ("grpc.enable_retries", 0),
        # The least time for a connection to come about, 20 s by default.
        ("grpc.min_reconnect_backoff_ms", round(1000 * options.connect)),
        # A channel that could not connect fails every call until it tries again: after 1 s at first, and 2 minutes at
        # last, by default, so that a server that is back would be there for nobody. Ours come again within that time.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 250),
        ("grpc.keepalive_time_ms", round(1000 * max(_PING_SECONDS, options.deadline / 2))),
        # By which gRPC really waits (1.85, `grpc_chttp2_end_write`), a minute by default; `grpc.keepalive_timeout_ms`
        # is 20 s by default (grpc/doc/keepalive.md).
        ("grpc.http2.ping_timeout_ms", round(1000 * _PONG_SECONDS)),
    ]


def _credentials(options: Options) -> grpc.ChannelCredentials:
    authority, key, certificate = (
        _read(path) for path in (options.certificate_authority, options.key, options.certificate)
    )
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _read(path: Path | None) -> bytes | None:
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such file, expected a PEM file")
    return path.read_bytes() if path else None
