"""The client against the development server over real sockets, against servers that misbehave, and without one."""

import contextlib
import datetime
import io
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from processes import python

from flexunet.core.errors import UserError
from flexunet.serving import grpc_model
from flexunet.serving.client import Options, ServingError, connect, in_order, predict_image, predict_images
from flexunet.serving.limits import CLIENT_SECONDS
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.server import Server
from flexunet.serving.transport import UnreachableError
from flexunet.serving.wire import PREDICT, as_strings

INTERFACES = ["grpc", "http", "folder"]


@pytest.fixture(params=INTERFACES)
def target(request: Any, server: Server, color_export: Path) -> str:
    return {
        "grpc": f"grpc://127.0.0.1:{server.grpc_port}",
        "http": f"http://127.0.0.1:{server.rest_port}",
        "folder": str(color_export.parent),
    }[request.param]


def test_an_image_gets_its_mask(target: str, good_image: Any) -> None:
    with connect(target) as model:
        prediction = predict_image(model, good_image[0])
    np.testing.assert_array_equal(prediction.class_ids, good_image[1])
    assert prediction.valid and prediction.error == ""
    np.testing.assert_allclose(prediction.class_fractions, np.bincount(good_image[1].ravel()) / good_image[1].size)
    assert 0.9 < prediction.confidence <= 1 and prediction.seconds > 0


def test_hostile_images_are_answers_with_a_reason(
    target: str, hostile_images: dict[str, bytes], odd_images: dict[str, bytes]
) -> None:
    with connect(target) as model:
        answers = list(predict_images(model, [*hostile_images.values(), *odd_images.values()]))
    for name, answer in zip([*hostile_images, *odd_images], answers, strict=True):
        assert answer.valid == (name in odd_images), (name, answer.error)
        assert (answer.class_ids.size > 0) == answer.valid


def test_many_images_come_back_in_order(target: str, odd_images: dict[str, bytes]) -> None:
    images = list(odd_images.values()) * 3
    with connect(target) as model:
        alone = [predict_image(model, image).class_ids for image in odd_images.values()]
        together = [answer.class_ids for answer in predict_images(model, iter(images), concurrency=8)]
    for one, expected in zip(together, alone * 3, strict=True):
        # Rounding may choose another class at an edge that JPEG blurred: the batches are of other sizes.
        assert one.shape == expected.shape and (one == expected).mean() > 0.99


def test_answers_that_nobody_takes_are_given_up_from_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector comes when it likes, also in a thread that asks the server."""
    unraised, held, asked, collected = list[Any](), list[Any](), threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)

    def ask(item: int) -> int:
        if item == 1:
            asked.wait()
            held.clear()
            collected.set()
        return item

    held.append(in_order(ask, range(10), 2))
    assert next(held[0]).result() == 0
    asked.set()
    assert collected.wait(60) and unraised == []


@pytest.mark.parametrize("signature", ["pixels", "probabilities"])
def test_pixels_are_the_same_over_every_interface(
    target: str, signature: str, color_export: Path, good_image: Any
) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(good_image[0])))[None]
    with connect(target) as model, connect(str(color_export)) as local:
        [(name, found)] = model.run(signature, {"pixels": pixels}).items()
        expected = local.run(signature, {"pixels": pixels})[name]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_only_the_wanted_outputs_come(target: str, good_image: Any) -> None:
    with connect(target) as model:
        found = model.run("serving_default", {"image_bytes": as_strings([good_image[0]])}, ["confidence", "valid"])
    assert sorted(found) == ["confidence", "valid"]


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("nothing", {"image_bytes": as_strings([b""])}, "nothing"),
        ("serving_default", {"nothing": as_strings([b""])}, "nothing|image_bytes"),
        ("serving_default", {"image_bytes": as_strings([])}, "batch is empty"),
        ("pixels", {"pixels": np.zeros((2, 2), np.uint8)}, "[Ss]hape"),
        ("pixels", {"pixels": np.zeros((1, 0, 2, 3), np.uint8)}, "pixels|[Ss]hape"),
    ],
    ids=["signature", "input", "empty-batch", "rank", "no-pixels"],
)
def test_a_wrong_request_is_an_error_and_the_next_one_is_answered(
    target: str, signature: str, inputs: dict[str, np.ndarray], words: str, good_image: Any
) -> None:
    with connect(target) as model:
        with pytest.raises(ServingError, match=words) as raised:
            model.run(signature, inputs)
        assert "\n" not in str(raised.value)
        assert predict_image(model, good_image[0]).valid


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_unknown_model_or_version_is_named(server: Server, scheme: str, good_image: Any) -> None:
    url = f"{scheme}://127.0.0.1:{server.grpc_port if scheme == 'grpc' else server.rest_port}"
    for options in (Options(model_name="other"), Options(version=9)):
        with connect(url, options) as model, pytest.raises(ServingError, match=r"NOT_FOUND|HTTP 404"):
            predict_image(model, good_image[0])
    own = "" if scheme == "grpc" else "/v1/models/flexunet"
    with connect(url + own, Options(version=1)) as model:
        assert predict_image(model, good_image[0]).valid


@pytest.mark.parametrize("target", ["ftp://host:1", "grpc://host", "http://", "/nowhere"])
def test_a_target_that_is_none_is_the_users_mistake(target: str) -> None:
    with pytest.raises(UserError, match="expected"):
        connect(target)


def test_a_server_that_is_not_there_is_named_within_the_deadline() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for scheme in ("grpc", "http"):
        started = time.monotonic()
        words = f"127.0.0.1:{port}"
        with connect(f"{scheme}://{words}", Options(deadline=3)) as model, pytest.raises(ServingError, match=words):
            predict_image(model, b"")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_address_that_drops_what_it_is_sent_is_not_reached(scheme: str) -> None:
    """As behind a firewall: nobody refuses or answers. A command ends at its first image then, or asks elsewhere."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        started, address = time.monotonic(), f"{scheme}://127.0.0.1:{full.getsockname()[1]}"
        with connect(address, Options(connect=0.5, unreachable_attempts=2)) as model:  # noqa: SIM117
            with pytest.raises(UnreachableError, match=address):
                predict_image(model, b"")
        assert time.monotonic() - started < 8


def test_a_channel_that_could_not_connect_tries_again_soon() -> None:
    """gRPC waits 1, 1.6, 2.6 s and so on, at last 2 minutes, and fails every call meanwhile: who asks for days
    would miss a server that is back.
    """
    connections: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as rude, contextlib.ExitStack() as ends:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    rude.accept()[0].close()
                    connections.append(time.monotonic())

        thread = threading.Thread(target=hang_up)
        thread.start()
        ends.callback(thread.join)
        # Else the thread that waits in it would not hear of it.
        ends.callback(rude.shutdown, socket.SHUT_RDWR)
        options = Options(attempts=1, unreachable_attempts=1)
        with connect(f"grpc://127.0.0.1:{rude.getsockname()[1]}", options) as model:
            while len(connections) < 4:
                with pytest.raises(ServingError):
                    predict_image(model, b"")
                time.sleep(0.02)
    assert connections[3] - connections[0] < 2


def test_messages_beyond_the_limit_are_refused_before_they_are_sent(server: Server) -> None:
    for url in (f"grpc://127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
        with connect(url, Options(max_message_bytes=1000)) as model, pytest.raises(ServingError, match="at most 1000"):
            predict_image(model, b"x" * 2000)


def test_an_answer_beyond_the_limit_is_an_error(server: Server) -> None:
    pixels = {"pixels": np.zeros((1, 48, 48, 3), np.uint8)}
    for url in (f"grpc://127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
        options, words = Options(max_message_bytes=30_000, attempts=1), r"RESOURCE_EXHAUSTED|more than 30000 bytes"
        with connect(url, options) as model, pytest.raises(ServingError, match=words):
            model.run("probabilities", pixels)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_more_rows_than_a_server_takes_at_once_are_sent_in_parts(
    server: Server, scheme: str, good_image: Any, odd_images: dict[str, bytes]
) -> None:
    url = f"{scheme}://127.0.0.1:{server.grpc_port if scheme == 'grpc' else server.rest_port}"
    images = [*odd_images.values(), *[good_image[0]] * 25]
    with connect(url) as model:
        found = model.run("serving_default", {"image_bytes": as_strings(images)}, ["valid", "confidence"])
        one_by_one = [model.run("serving_default", {"image_bytes": as_strings([i])}, ["confidence"]) for i in images]
    assert found["valid"].all() and found["valid"].shape == (len(images),)
    np.testing.assert_allclose(found["confidence"], [o["confidence"][0] for o in one_by_one], atol=1e-3)


class Moody:
    """A server that fails some times before it answers, over both interfaces; with status 0 it hangs up."""

    def __init__(self, code: grpc.StatusCode, status: int, failures: int, pause: float = 0) -> None:
        self.code, self.status, self.failures, self.pause, self.calls = code, status, failures, pause, 0
        self.told = 0.0

    def fails(self) -> bool:
        self.calls += 1
        time.sleep(self.pause)
        return self.calls <= self.failures

    def predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        self.told = context.time_remaining()
        if self.fails():
            context.abort(self.code, "in a mood")
        return pb.PredictResponse(outputs=dict(request.inputs))

    @contextmanager
    def grpc(self) -> Iterator[str]:
        handler = grpc.unary_unary_rpc_method_handler(
            self.predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
        )
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.server(ThreadPoolExecutor(2), options=limits)
        service, _, method = PREDICT[1:].partition("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"grpc://127.0.0.1:{port}"
        server.stop(None)

    @contextmanager
    def http(self) -> Iterator[str]:
        moody = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                failed = moody.fails()
                if failed and not moody.status:
                    self.close_connection = True
                    return
                answer = (
                    {"error": "in a mood"} if failed else {"outputs": {"pixels": body["inputs"]["pixels"], "x": []}}
                )
                content = json.dumps(answer).encode()
                self.send_response(moody.status if failed else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("interface", ["grpc", "http"])
@pytest.mark.parametrize(
    ("code", "status", "failures", "calls"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503, 2, 3),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, 2, 3),
        (grpc.StatusCode.CANCELLED, 499, 2, 3),
        (grpc.StatusCode.UNAVAILABLE, 503, 9, 4),
        (grpc.StatusCode.UNAVAILABLE, 0, 2, 3),
        (grpc.StatusCode.UNAVAILABLE, 502, 2, 3),
        (grpc.StatusCode.INVALID_ARGUMENT, 400, 9, 1),
        (grpc.StatusCode.INTERNAL, 500, 9, 1),
    ],
    ids=["unavailable", "exhausted", "cancelled", "always-unavailable", "hangs-up", "gateway", "invalid", "internal"],
)
def test_only_a_server_that_is_not_ready_is_asked_again(
    interface: str, code: grpc.StatusCode, status: int, failures: int, calls: int
) -> None:
    moody = Moody(code, status, failures)
    # Larger than gRPC's own buffer for retries, 256 KB.
    pixels = {"pixels": np.zeros((1, 400, 400, 3), np.uint8)}
    with getattr(moody, interface)() as url, connect(url, Options(attempts=4)) as model:
        if failures < 4:
            assert model.run("pixels", pixels)["pixels"].shape == (1, 400, 400, 3)
        else:
            with pytest.raises(ServingError, match="in a mood"):
                model.run("pixels", pixels)
    assert moody.calls == calls


@pytest.mark.parametrize("interface", ["grpc", "http"])
def test_a_slow_server_is_given_up_at_the_deadline(interface: str) -> None:
    moody = Moody(grpc.StatusCode.OK, 200, 0, pause=1.5)
    pixels, words = {"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, r"no answer within 0\.3 s"
    with getattr(moody, interface)() as url, connect(url, Options(deadline=0.3)) as model:  # noqa: SIM117
        with pytest.raises(ServingError, match=words):
            model.run("pixels", pixels)
    assert moody.calls == 1


def test_a_server_is_told_no_deadline_that_would_cost_others_their_answers() -> None:
    """Neither one that is short from the start, nor what is left of it when the client comes again."""
    moody = Moody(grpc.StatusCode.UNAVAILABLE, 503, 2)
    with moody.grpc() as url, connect(url, Options(deadline=10)) as model:
        model.run("pixels", {"pixels": np.zeros((1, 2, 2, 3), np.uint8)})
    assert moody.calls == 3 and CLIENT_SECONDS - 5 < moody.told < CLIENT_SECONDS + 1


@contextmanager
def relay(port: int, is_silent: Callable[[], bool]) -> Iterator[int]:
    """The port of what hands bytes on, both ways; of its first connection none once `is_silent`, as of a lost node."""
    with contextlib.ExitStack() as ends, socket.create_server(("127.0.0.1", 0)) as server:

        def pump(source: socket.socket, target: socket.socket, vanishes: bool) -> None:
            with contextlib.suppress(OSError):
                while content := source.recv(65536):
                    if not (vanishes and is_silent()):
                        target.sendall(content)

        def accept() -> None:
            with contextlib.suppress(OSError):
                for number in itertools.count():
                    client, behind = server.accept()[0], socket.create_connection(("127.0.0.1", port))
                    for one, other in ((client, behind), (behind, client)):
                        ends.callback(one.close)
                        threading.Thread(target=pump, args=(one, other, number == 0), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        # Else the thread that waits in it would not hear of it.
        server.shutdown(socket.SHUT_RDWR)


def test_a_server_that_vanishes_under_a_call_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is reset where a node is lost: the call would wait for its deadline, and all others for as long again."""
    # Twice in a call at most, and in time to come again; what a slow line has still to send is no lost node.
    settings = dict(grpc_model._channel_options(Options()))
    assert settings["grpc.keepalive_time_ms"] == 1000 * CLIENT_SECONDS / 2
    assert settings["grpc.http2.ping_timeout_ms"] == 20_000 <= 1000 * (CLIENT_SECONDS / 2 - Options().connect)
    monkeypatch.setattr(grpc_model, "_PING_SECONDS", 0.3)
    monkeypatch.setattr(grpc_model, "_PONG_SECONDS", 0.3)
    moody = Moody(grpc.StatusCode.OK, 200, 0, pause=0.2)
    with moody.grpc() as url, relay(int(url.rpartition(":")[2]), lambda: moody.calls > 0) as port:  # noqa: SIM117
        with connect(f"grpc://127.0.0.1:{port}", Options(deadline=4)) as model:
            found = model.run("pixels", {"pixels": np.zeros((1, 2, 2, 3), np.uint8)})
    assert found["pixels"].shape == (1, 2, 2, 3) and moody.calls == 2


def test_no_more_requests_than_allowed_are_under_way() -> None:
    lock, under_way, most = threading.Lock(), [0], [0]

    class Slow:
        def run(self, *_: Any) -> dict[str, np.ndarray]:
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            time.sleep(0.01)
            with lock:
                under_way[0] -= 1
            return {
                "mask_png": as_strings([b""]),
                "class_fractions": np.zeros((1, 2), np.float32),
                "confidence": np.zeros(1, np.float32),
                "valid": np.zeros(1, bool),
                "error": as_strings([b"no"]),
            }

    slow: Any = Slow()
    assert len(list(predict_images(slow, (b"" for _ in range(40)), concurrency=3))) == 40
    assert most[0] == 3


def certificates(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *formats))
    return folder / "cert.pem", folder / "key.pem"


def test_tls_needs_the_authority_that_signed(tmp_path: Path) -> None:
    certificate, key = certificates(tmp_path)
    moody = Moody(grpc.StatusCode.OK, 200, 0)
    handler = grpc.unary_unary_rpc_method_handler(
        moody.predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(2))
    service, _, method = PREDICT[1:].partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pair = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("localhost:0", pair)
    server.start()
    pixels = {"pixels": np.zeros((1, 2, 2, 3), np.uint8)}
    with connect(f"grpcs://localhost:{port}", Options(certificate_authority=certificate)) as model:
        assert model.run("pixels", pixels)["pixels"].shape == (1, 2, 2, 3)
    with connect(f"grpcs://localhost:{port}", Options(deadline=3, attempts=1)) as model, pytest.raises(ServingError):
        model.run("pixels", pixels)
    server.stop(None)
    with pytest.raises(UserError, match="expected a PEM file"):
        connect(f"grpcs://localhost:{port}", Options(certificate_authority=tmp_path / "missing.pem"))


def test_a_taken_port_is_the_users_mistake(server: Server, color_export: Path) -> None:
    with pytest.raises(UserError, match="--grpc-port"):
        Server(color_export, grpc_port=server.grpc_port, rest_port=0)
    with pytest.raises(UserError, match="--rest-port"):
        Server(color_export, grpc_port=0, rest_port=server.rest_port)


def test_the_client_is_light() -> None:
    """Under 100 MB, and five times what importing numpy takes, 0.1 s on an idle machine: others use it too."""
    code = (
        "import time, sys; t = time.process_time(); import numpy; numpy_seconds = time.process_time() - t; "
        "import flexunet.serving.client, flexunet.serving.grpc_model, flexunet.serving.rest_model; "
        "s = time.process_time() - t; "
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'tfx', 'scipy', 'keras')]; "
        "from flexunet.serving.memory import resident_megabytes; "
        "print(s / numpy_seconds, resident_megabytes('VmHWM'), len(heavy))"
    )
    figures = np.array([[float(word) for word in python("-c", code).split()] for _ in range(5)])
    times, megabytes, heavy = figures.min(axis=0)
    assert heavy == 0
    assert megabytes < 100
    assert times < 5
