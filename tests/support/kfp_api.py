"""Kubeflow Pipelines' API server and its page, as `flexunet kubeflow submit` meets them, in one process.

As rude as the original (2.16.1 on a cluster, and the source of 2.15 to 2.17): a log that cannot be had is answered with
200 and an error in JSON; the account of a schedule is dropped; a terminated run is CANCELING and then FAILED; an upload
of a pipeline makes a version of its own; a pod's log holds the words of launcher, executor and libraries. And it can be
away: requests are lost before or after they were obeyed, refused, slow.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

# What others write into the same log: absl before the container's words, Kubeflow's launcher, Argo's executor.
BEFORE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1764115801.123456       7 port.cc:153] oneDNN custom operations are on.\n"
    "I1124 23:50:01.123456       1 launcher_v2.go:192] publish success.\n"
)
AFTER = (
    'time="2026-11-24T23:50:02Z" level=info msg="sub-process exited" argo=true error="<nil>"\nError: exit status 1\n'
)
# Argo's ids of nodes; pods of steps that are not retried are called after their template as well.
NODES = {"prepare": "flexunet-x7k2p-11", "trainer": "flexunet-x7k2p-22", "verdict": "flexunet-x7k2p-33"}
DEFAULT_ACCOUNT = "pipeline-runner"
# Of a log that the API server looks for in a namespace called "".
NO_LOG = {
    "error_message": "Failed to read logs for run r1: an empty namespace may not be set with a name",
    "error_details": "rpc error: code = InvalidArgument",
}
# Poll by poll: the run's state and those of its tasks.
States = list[tuple[str, dict[str, str]]]
# "before", "after": the connection ends without an answer, before or after the request was obeyed; else a status.
Failure = str | int | None


def pod(step: str) -> str:
    workflow, _, number = NODES[step].rpartition("-")
    return f"{workflow}-system-container-impl-{number}"


class Api:
    """What was asked, and how runs go."""

    def __init__(self, states: States, logs: dict[str, str]) -> None:
        self.states, self.logs = states, logs
        self.asked: list[tuple[str, str, Any]] = []
        self.pipelines: dict[str | None, list[dict[str, str]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.polls: dict[str, int] = {}
        # Whether the host is Kubeflow's page, as in the how-to, or the API server itself.
        self.is_page = True
        # Of the API server: with several users it finds pods, since runs have a namespace.
        self.is_multi_user = False
        self.version = "2.16.1"
        # Ending a run sets its state; its history gets it when the workflow is looked at before its pods are gone.
        self.notes_canceling = True
        self.namespaces: list[str | None] = []
        self.authorizations: set[str | None] = set()
        self.fail: Callable[[str, str], Failure] = lambda method, path: None
        self.lock = threading.RLock()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        parsed = json.loads(body) if body.startswith(b"{") else None
        self.asked.append((method, path, parsed if parsed is not None else query))
        if path == "/k8s/pod/logs":
            return self._log_of_page(query)
        if path.startswith("/apis/v1alpha1/"):
            return self._log_of_server(path)
        kind, _, rest = path.removeprefix("/apis/v2beta1/").partition("/")
        return getattr(self, f"_{method.lower()}_{kind}")(rest, query, parsed)

    def _get_healthz(self, rest: str, query: Any, body: Any) -> Any:
        return {"multi_user": self.is_multi_user, "tag_name": self.version}

    def _get_experiments(self, rest: str, query: Any, body: Any) -> Any:
        return {"experiments": []}

    def _post_experiments(self, rest: str, query: Any, body: Any) -> Any:
        return {"experiment_id": "e1", "display_name": body["display_name"]}

    def _get_pipelines(self, rest: str, query: Any, body: Any) -> Any:
        if rest:
            known_versions = self.pipelines[rest.removeprefix("p-").removesuffix("/versions") or None]
            [named] = json.loads(query["filter"][0])["predicates"] if "filter" in query else [None]
            found = [v for v in known_versions if named is None or v[named["key"]] == named["stringValue"]]
            # The newest are not first, unless that is asked for.
            return {"pipeline_versions": found[: int(query["page_size"][0])]}
        namespace = query.get("namespace", [None])[0]
        known = namespace in self.pipelines
        return {"pipelines": [{"pipeline_id": f"p-{namespace or ''}", "display_name": "flexunet"}]} if known else {}

    def _post_pipelines(self, rest: str, query: Any, body: Any) -> Any:
        if rest == "upload_version":
            versions = self.pipelines[query["pipelineid"][0].removeprefix("p-") or None]
            if query["name"][0] in [version["display_name"] for version in versions]:
                raise PermissionError("a version of this name is there")
            versions.append({"pipeline_version_id": f"v{len(versions) + 1}", "display_name": query["name"][0]})
            return {"pipeline_id": query["pipelineid"][0], **versions[-1]}
        namespace = body.get("namespace") if body else query.get("namespace", [None])[0]
        if namespace in self.pipelines:
            raise PermissionError("a pipeline of this name is there")
        # An upload makes a version as well, called like the pipeline.
        first = [{"pipeline_version_id": "v1", "display_name": "flexunet"}] if rest == "upload" else []
        self.pipelines[namespace] = first
        return {"pipeline_id": f"p-{namespace or ''}", "display_name": "flexunet"}

    def _post_runs(self, rest: str, query: Any, body: Any) -> Any:
        identity = f"r{len(self.runs) + 1}"
        self.runs[identity] = {**body, "run_id": identity}
        return self.runs[identity]

    def _get_runs(self, rest: str, query: Any, body: Any) -> Any:
        return self._run(rest) if rest else {"runs": list(reversed(self.runs.values()))}

    def _post_recurringruns(self, rest: str, query: Any, body: Any) -> Any:
        identity = f"s{len(self.schedules) + 1}"
        minor = int(self.version.split(".")[1])
        account = body["service_account"] if minor >= 17 else DEFAULT_ACCOUNT
        self.schedules[identity] = {**body, "recurring_run_id": identity, "service_account": account}
        return self.schedules[identity]

    def _get_recurringruns(self, rest: str, query: Any, body: Any) -> Any:
        return {"recurringRuns": list(reversed(self.schedules.values()))}

    def _delete_recurringruns(self, rest: str, query: Any, body: Any) -> Any:
        del self.schedules[rest]
        return {}

    def _run(self, identity: str) -> Any:
        run, poll = self.runs[identity], self.polls.get(identity, 0)
        self.polls[identity] = poll + 1
        shown = self.states[: poll + 1]
        state, tasks = shown[-1]
        # Argo's nodes around them, also those of attempts; what a container ended with, the API does not say.
        details: list[dict[str, Any]] = [
            {"display_name": name, "state": "SUCCEEDED"} for name in ("root", "root-driver", "executor")
        ]
        details += [{"display_name": f"executor({number})", "state": "FAILED"} for number in (0, 1)]
        for name, task in tasks.items():
            child = {"child_tasks": [{"pod_name": NODES[name]}]} if name in NODES else {}
            details.append({"display_name": name, "state": task, **child})
        noted = [name for name, _ in shown if name != "CANCELING" or self.notes_canceling]
        history = [{"state": name} for name in dict.fromkeys(noted)]
        return {**run, "state": state, "state_history": history, "run_details": {"task_details": details}}

    def _log_of_page(self, query: dict[str, list[str]]) -> Any:
        if not self.is_page:
            raise KeyError("/k8s/pod/logs")
        self.namespaces.append(query.get("podnamespace", [None])[0])
        text = self._log(query["podname"][0])
        if text is None:
            raise RuntimeError("Could not get main container logs: Error: Unable to retrieve workflow status")
        return text

    def _log_of_server(self, path: str) -> Any:
        if self.is_page:
            # As a page's server answers what it does not know.
            return "<!doctype html>"
        text = self._log(path.split("/")[-2]) if self.is_multi_user else None
        return json.dumps(NO_LOG) if text is None else text

    def _log(self, name: str) -> str | None:
        found = [text for step, text in self.logs.items() if pod(step) == name]
        return BEFORE + found[0] + AFTER if found else None

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for m, p, body in self.asked if (m, p) == (method, path)]


@contextmanager
def served(api: Api) -> Iterator[str]:
    """The host's address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            url = urlparse(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            failure = api.fail(self.command, url.path)
            if failure == "before":
                self._hang_up()
                return
            if isinstance(failure, int):
                self._send(failure, b'{"message": "injected"}', "application/json")
                return
            api.authorizations.add(self.headers.get("Authorization"))
            try:
                with api.lock:
                    answer = api.answer(self.command, url.path, parse_qs(url.query), body)
            except (KeyError, AttributeError):
                self._send(404, json.dumps({"error": f"no such thing: {url.path}"}).encode(), "application/json")
            except PermissionError as error:
                self._send(409, json.dumps({"error": str(error)}).encode(), "application/json")
            except RuntimeError as error:
                self._send(500, str(error).encode(), "text/plain")
            else:
                if failure == "after":
                    self._hang_up()
                    return
                kind = "application/json" if not isinstance(answer, str) else "text/plain"
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self._send(200, text.encode(), "text/html" if text.startswith("<!doctype") else kind)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def slowly(seconds: float) -> Failure:
    """No failure, only a wait."""
    time.sleep(seconds)
    return None
