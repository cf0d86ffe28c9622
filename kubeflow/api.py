"""kfp's client, with errors of one line, patience with a server that restarts, and requests that are sent once."""

import io
import json
import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final, Literal, TypeVar

import kfp
import kfp_server_api
import urllib3.exceptions
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, ServiceAccountTokenVolumeCredentials

from flexunet.core.errors import UserError

T = TypeVar("T")

# Whether asking again may give more: never, a few times, or until a server that is away has come back.
Again = Literal["", "later", "back"]

# A token is a credential: from the environment only. Without one, kfp takes what the cluster or its own settings give.
TOKEN_VARIABLE: Final = "FLEXUNET_KUBEFLOW_TOKEN"  # noqa: S105
# Seconds for the connection, and without a byte of an answer: kfp has no limit and would wait for a lost one for ever.
_TIMEOUT: Final = (10.0, 60.0)
# Seconds for which a server that has answered before may be away: a restart, a lost port-forward.
PATIENCE: Final = 600.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERRORS: Final = range(500, 600)
# Of what stands before a server that is not there.
_AWAY: Final = (_TOO_MANY_REQUESTS, 502, 503, 504)

logger = logging.getLogger("flexunet.kubeflow")


class Api:
    """Asks one Kubeflow; `client` is kfp's."""

    def __init__(self, host: str, namespace: str | None, pause: float = _FIRST_PAUSE) -> None:
        self._host, self._pause = host, pause
        with _one_line(host), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # Its generated types say that every field may be missing: kubeflow/answers.py has those that we read.
            self.client: Any = kfp.Client(
                host=host,
                namespace=namespace or "kubeflow",
                existing_token=os.environ.get(TOKEN_VARIABLE) or None,
                credentials=_token_file(),
            )
            self._calls = self.client._run_api.api_client
            _limit(self._calls)
            # A host that is none is told at once.
            self._calls.call_api("/apis/v2beta1/healthz", "GET", auth_settings=["Bearer"])

    def ask(self, question: Callable[[], T]) -> T:
        """Asks until there is an answer, for as long as `PATIENCE`; the question may be asked twice without harm.

        Raises:
          UserError: one line: the server refuses, or stays away.
        """
        until, pause = patience_ends(), self._pause
        while True:
            try:
                with redirect_stdout(io.StringIO()):
                    return question()
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ConnectionError) as error:
                if not _may_pass(error) or time.monotonic() + pause > until:
                    with _one_line(self._host):
                        raise
                logger.info("%s: %s: asking again in %.0f s", self._host, _reason(error), pause)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def create(self, make: Callable[[str], T], find: Callable[[str], T | None]) -> T:
        """Makes one thing, and not two where the first answer was lost.

        Args:
          make: makes it; its description holds the text given.
          find: the one whose description holds the text, if the server knows one.
        """
        mark, tried = f"flexunet submit {uuid.uuid4().hex}", False

        def question() -> T:
            nonlocal tried
            found = find(mark) if tried else None
            tried = True
            return found if found is not None else make(mark)

        return self.ask(question)

    def text(self, path: str, query: Mapping[str, str]) -> tuple[str, Again]:
        """A plain text of the host, and whether asking again may give more.

        The text is "" for an error and for the pages that a web server answers unknown paths with.
        """
        try:
            answer = self._calls.call_api(
                path, "GET", query_params=dict(query), auth_settings=["Bearer"], _preload_content=False
            )
            text = answer.data.decode(errors="replace")
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ConnectionError) as error:
            return "", "back" if _is_away(error) else "later" if _may_pass(error) else ""
        is_page = "html" in (answer.headers.get("Content-Type") or "")
        return "" if is_page or _is_error(text) else text, ""

    def version(self) -> str:
        """What the server calls itself; "unknown" where it does not say."""
        text, _ = self.text("/apis/v2beta1/healthz", {})
        try:
            return str(json.loads(text).get("tag_name") or "unknown")
        except (ValueError, AttributeError):
            return "unknown"


def _token_file() -> ServiceAccountTokenVolumeCredentials | None:
    """The token that a pod's kubelet keeps fresh in a file, which kfp reads for each request."""
    if not os.environ.get(KF_PIPELINES_SA_TOKEN_ENV):
        return None
    return ServiceAccountTokenVolumeCredentials()


def _limit(calls: kfp_server_api.ApiClient) -> None:
    """Gives every request of kfp's client a time-out, which it has no setting for."""
    call = calls.call_api

    def limited(*given: Any, **named: Any) -> object:
        return call(*given, **{**named, "_request_timeout": named.get("_request_timeout") or _TIMEOUT})

    calls.call_api = limited


def patience_ends() -> float:
    """By `time.monotonic()`, of who asks from now on."""
    return time.monotonic() + PATIENCE


def _is_away(error: Exception) -> bool:
    return not isinstance(error, kfp_server_api.ApiException) or not error.status or error.status in _AWAY


def _may_pass(error: Exception) -> bool:
    if not isinstance(error, kfp_server_api.ApiException):
        return True
    return not error.status or error.status == _TOO_MANY_REQUESTS or error.status in _SERVER_ERRORS


def _is_error(text: str) -> bool:
    """The API server answers 200 before it looks for a log, and then tells what went wrong in place of it or below."""
    last = text.rstrip().rpartition("\n")[2]
    try:
        return "error_message" in json.loads(last[max(last.find('{"error_message"'), 0) :])
    except (ValueError, TypeError):
        return False


@contextmanager
def _one_line(host: str) -> Iterator[None]:
    """Errors of the API as the user's: a wrong host, no rights, a refused parameter. What kfp prints is dropped.

    Raises:
      UserError: one line.
    """
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise UserError(f"{host}: {_reason(error)}") from error
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise UserError(f"{host}: {_reason(error)}, expected Kubeflow Pipelines' API") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, kfp_server_api.ApiException):
        return f"no answer ({type(error).__name__})"
    try:
        body = json.loads(error.body or "{}")
        words = body.get("error_description") or body.get("error") or body.get("message") or error.reason
    except (TypeError, ValueError, AttributeError):
        words = error.reason
    return f"Kubeflow answers {error.status}: {words}"
