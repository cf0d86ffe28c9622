"""TF Serving over REST."""

import base64
import contextlib
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import urllib3

from flexunet.core import features
from flexunet.core.files import Json
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
from flexunet.serving.wire import OUTPUT_DTYPES, as_strings

# What TF Serving answers for UNAVAILABLE, RESOURCE_EXHAUSTED and CANCELLED.
_AGAIN: Final = frozenset({503, 429, 499})
# What a gateway says of a server that it does not reach, as while a pod is replaced; TF Serving never does.
_BAD_GATEWAY: Final = 502
# What every other request will be answered as well: no such caller, no such model, no such path.
_NOT_SERVED: Final = frozenset({401, 403, 404, 405})


class RestModel(Remote):
    """A model behind `http[s]://host:port`, or `http[s]://host:port/v1/models/NAME`."""

    def __init__(self, url: str, options: Options) -> None:
        version = "" if options.version is None else f"/versions/{options.version}"
        version = f"/labels/{options.label}" if options.label else version
        super().__init__(options)
        # The model's own address, which `flexunet serve` prints, will do as well.
        model = url if "/v1/models/" in url else f"{url}/v1/models/{options.model_name}"
        self._url = f"{model}{version}:predict"
        self._pool = urllib3.PoolManager(
            maxsize=32,
            retries=False,
            ca_certs=str(options.certificate_authority) if options.certificate_authority else None,
            cert_file=str(options.certificate) if options.certificate else None,
            key_file=str(options.key) if options.key else None,
        )

    def ask(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Calls a signature, see `transport.Model.run`; `serving_default` goes by way of its REST twin."""
        # In REST only names that end in `_bytes` are base64: a PNG under another name would break the JSON.
        sent = features.SIGNATURE_REST if signature == features.SIGNATURE_SERVING else signature
        body = json.dumps({"signature_name": sent, "inputs": {name: _to_json(a) for name, a in inputs.items()}})
        limit = self._options.max_message_bytes
        if len(body) > limit:
            raise ServingError(
                f"{self._url}: a request of {len(body)} bytes, at most {limit} are sent: "
                "send fewer images at once or raise the limit"
            )
        answer = self.patiently(lambda seconds: self._attempt(body.encode(), seconds))
        try:
            found = _from_json(json.loads(answer), signature)
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(f"{self._url}: not an answer of TF Serving: {answer[:80]!r}") from error
        return {name: array for name, array in found.items() if not outputs or name in outputs}

    def close(self) -> None:
        self._pool.clear()

    def _attempt(self, body: bytes, seconds: float) -> bytes:
        headers = {"Content-Type": "application/json"}
        limit, given_up = self._options.max_message_bytes, f"{self._url}: no answer within {self._options.deadline:g} s"
        timeout = urllib3.Timeout(connect=min(seconds, self._options.connect), read=seconds)
        try:
            with self._pool.request(
                "POST", self._url, body=body, headers=headers, timeout=timeout, preload_content=False
            ) as response:
                answer = response.read(limit + 1)
        # What gRPC calls UNAVAILABLE: no connection, within its time or at all, or one that broke.
        except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ProtocolError) as error:
            cause = error.args[-1]
            # A server that hangs up without a word, as one that is stopped, is such a line to Python, too.
            if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, http.client.RemoteDisconnected):
                raise NotServedError(f"{self._url}: no answer of HTTP; a port of gRPC is asked by grpc://") from None
            raise UnreachableError(f"{self._url}: {str(cause).rpartition(': ')[2]}") from error
        except urllib3.exceptions.TimeoutError:
            raise ServingError(given_up) from None
        except urllib3.exceptions.SSLError as error:
            raise NotServedError(f"{self._url}: {error}; a port without TLS is asked by http://") from error
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(f"{self._url}: {type(error).__name__}: {error}") from error
        if len(answer) > limit:
            raise ServingError(f"{self._url}: an answer of more than {limit} bytes: raise the limit")
        if response.status != 200:
            words = _explain(response.status, answer)
            raise _refusal(response.status, words)(f"{self._url}: {words}")
        return answer


def _refusal(status: int, words: str) -> type[ServingError]:
    if status == 400 and UNKNOWN_LABEL in words:
        return UnknownLabelError
    if status == _BAD_GATEWAY:
        return UnreachableError
    if status in _AGAIN or GIVEN_UP in words:
        return BusyError
    return NotServedError if status in _NOT_SERVED else ServingError


def _explain(status: int, answer: bytes) -> str:
    text = answer.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]
    return f"HTTP {status}: {' '.join(str(text).split())}"


def _to_json(array: np.ndarray) -> list[Json]:
    if array.dtype.hasobject:
        return [{"b64": base64.b64encode(item).decode()} for item in array]
    return array.tolist()


def _from_json(answer: dict[str, Json], signature: str) -> dict[str, np.ndarray]:
    """The answer's arrays; where a signature has one output, TF Serving leaves out its name."""
    outputs = answer["outputs"]
    if not isinstance(outputs, dict):
        only = {
            features.SIGNATURE_PIXELS: features.OUTPUT_CLASS_IDS,
            features.SIGNATURE_PROBABILITIES: features.OUTPUT_PROBABILITIES,
        }
        outputs = {only.get(signature, "output"): outputs}
    names = {features.OUTPUT_MASK_PNG_REST: features.OUTPUT_MASK_PNG}
    return {names.get(name, name): _array(name, values) for name, values in outputs.items()}


def _array(name: str, values: Json) -> np.ndarray:
    dtype = OUTPUT_DTYPES.get(name)
    if dtype is not object:
        return np.array(values, dtype)
    if not isinstance(values, list):
        raise TypeError(f"{name} is no list")
    if values and isinstance(values[0], list):
        return np.stack([_array(name, row) for row in values])
    return as_strings([_string(value) for value in values])


def _string(value: Json) -> bytes:
    if isinstance(value, str):
        return value.encode()
    encoded = value["b64"] if isinstance(value, dict) else None
    if not isinstance(encoded, str):
        raise TypeError("neither a string nor base64")
    return base64.b64decode(encoded)
