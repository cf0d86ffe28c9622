"""TF Serving over REST."""

import base64
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import urllib3

from flexunet.core import features
from flexunet.serving.transport import Closing, Options, ServingError
from flexunet.serving.wire import OUTPUT_DTYPES, as_strings

# What TF Serving answers for UNAVAILABLE and RESOURCE_EXHAUSTED.
_AGAIN: Final = frozenset({503, 429})
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class RestModel(Closing):
    """A model behind `http[s]://host:port`."""

    def __init__(self, url: str, options: Options) -> None:
        version = "" if options.version is None else f"/versions/{options.version}"
        self._url, self._options = f"{url}/v1/models/{options.model_name}{version}:predict", options
        self._pool = urllib3.PoolManager(
            maxsize=32,
            retries=False,
            ca_certs=str(options.certificate_authority) if options.certificate_authority else None,
            cert_file=str(options.certificate) if options.certificate else None,
            key_file=str(options.key) if options.key else None,
        )

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
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
        answer = self._post(body.encode())
        try:
            found = _from_json(json.loads(answer), signature)
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(f"{self._url}: not an answer of TF Serving: {answer[:80]!r}") from error
        return {name: array for name, array in found.items() if not outputs or name in outputs}

    def close(self) -> None:
        self._pool.clear()

    def _post(self, body: bytes) -> bytes:
        """One answer; tries again as long as the server is not there or busy, and the deadline is not over."""
        ends, pause, problem = time.monotonic() + self._options.deadline, _FIRST_PAUSE, ""
        for attempt in range(self._options.attempts):
            if attempt:
                time.sleep(max(0.0, min(pause, ends - time.monotonic())))
                pause = min(2 * pause, _LONGEST_PAUSE)
            left = ends - time.monotonic()
            if left <= 0:
                break
            status, answer = self._attempt(body, left)
            if status == 200:
                return answer
            problem = _explain(status, answer)
            if status not in _AGAIN:
                break
        raise ServingError(f"{self._url}: {problem or f'no answer within {self._options.deadline:g} s'}")

    def _attempt(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        """The status and the body; a server that cannot be reached counts as 503."""
        headers = {"Content-Type": "application/json"}
        limit = self._options.max_message_bytes
        try:
            with self._pool.request(
                "POST", self._url, body=body, headers=headers, timeout=seconds, preload_content=False
            ) as response:
                answer = response.read(limit + 1)
        # What gRPC calls UNAVAILABLE: no connection, or one that broke.
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProtocolError) as error:
            return 503, str(error).rpartition(": ")[2].encode()
        except urllib3.exceptions.TimeoutError:
            raise ServingError(f"{self._url}: no answer within {self._options.deadline:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(f"{self._url}: {type(error).__name__}: {error}") from error
        if len(answer) > limit:
            raise ServingError(f"{self._url}: an answer of more than {limit} bytes: raise the limit")
        return response.status, answer


def _explain(status: int, answer: bytes) -> str:
    text = answer.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]
    return f"HTTP {status}: {' '.join(str(text).split())}"


def _to_json(array: np.ndarray) -> Any:
    if array.dtype.hasobject:
        return [{"b64": base64.b64encode(item).decode()} for item in array]
    return array.tolist()


def _from_json(answer: dict[str, Any], signature: str) -> dict[str, np.ndarray]:
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


def _array(name: str, values: list[Any]) -> np.ndarray:
    dtype = OUTPUT_DTYPES.get(name)
    if dtype is not object:
        return np.array(values, dtype)
    return as_strings([base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in values])
