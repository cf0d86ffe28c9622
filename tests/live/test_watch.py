"""`flexunet live watch` between our client and the development server, over real sockets, each a process of its own."""

import base64
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import urllib3
from pictures import encoded
from relay import relayed
from waiting import wait_until
from watch_process import watch_of

from flexunet.core.features import INPUT_IMAGE_BYTES, SIGNATURE_SERVING
from flexunet.live.observe import NotSeenError, seen_in
from flexunet.live.proxy import grpc_route, rest_route
from flexunet.serving.client import connect, predict_image, predict_images
from flexunet.serving.exported import exported_config
from flexunet.serving.predict import Job
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.server import Server
from flexunet.serving.wire import PREDICT, as_strings, predict_request, to_tensor

# Blue, green and red halves: what the served model takes for classes 1, 2 and 3.
CLASSES = ("inclusion", "patches", "scratches")


def image(channel: int, size: int = 32, rows: int = 16) -> bytes:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:rows, :, channel] = 255
    return encoded(pixels)


@pytest.fixture
def watching(server: Server, tmp_path: Path) -> Callable[..., Any]:
    """`watching("--rate", "0.5")`: a watch in front of the server."""
    return lambda *arguments: watch_of(server, tmp_path / "live", *arguments)


def test_answers_are_the_servers_and_numbers_those_of_the_images(watching: Any, server: Server):
    images = [image(channel, rows=rows) for channel in range(3) for rows in (8, 16)] + [b"no image"]
    with watching("--camera-header", "X-Camera", "--keep-images", "1", "--metrics-port", "0") as watch:
        for target, direct in (
            (watch.grpc, f"grpc://127.0.0.1:{server.grpc_port}"),
            (watch.rest, f"http://127.0.0.1:{server.rest_port}"),
        ):
            with connect(target) as through, connect(direct) as model:
                for one, other in zip(predict_images(through, images), predict_images(model, images), strict=True):
                    assert (one.error, one.confidence, one.class_names) == (
                        other.error,
                        other.confidence,
                        other.class_names,
                    )
                    np.testing.assert_array_equal(one.class_ids, other.class_ids)
        with grpc.insecure_channel(watch.grpc.removeprefix("grpc://")) as channel:
            request = predict_request(SIGNATURE_SERVING, {INPUT_IMAGE_BYTES: as_strings([image(0), image(1)])})
            call: Any = channel.unary_unary(PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString)
            call(request, metadata=[("x-camera", "line 3")])
            with pytest.raises(grpc.RpcError):
                call(predict_request("other", {}))
        wait_until(lambda: watch.read()[1].get("requests", 0) == 16)
        (watch.out / "drift.prom").write_text("flexunet_drift_moved 1\n")
        assert watch.process.stdout is not None
        metrics = watch.process.stdout.readline().split(" ")[0]
        read = urllib3.request("GET", metrics)
        assert read.status == 200 and read.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        samples = dict(line.rsplit(" ", 1) for line in read.data.decode().splitlines() if not line.startswith("#"))
        counted = {name.partition("{")[2]: int(value) for name, value in samples.items() if "requests_total" in name}
        assert counted == {
            'interface="grpc",outcome="answered"}': 8,
            'interface="grpc",outcome="failed"}': 1,
            'interface="rest",outcome="answered"}': 7,
        }
        assert samples["flexunet_drift_moved"] == "1"
        assert urllib3.request("GET", metrics.removesuffix("metrics")).status == 404
        watch.end()
    lines, counts = watch.read()
    assert counts == {"requests": 16, "images": 16, "refused images": 2, "failed requests": 1}
    assert {line.version for line in lines} == {0, 3}
    assert sum(line.camera == "line 3" for line in lines) == 2
    answered = [line for line in lines if line.valid]
    assert {(line.kind, line.width, line.height) for line in answered} == {("png", 32, 32)}
    shares = sorted(tuple(round(line.shares[name], 2) for name in CLASSES) for line in answered if not line.camera)
    assert shares == sorted([tuple(share * (i == c) for i in range(3)) for c in range(3) for share in (0.25, 0.5)] * 2)
    assert all(0.9 < (line.confidence or 0) <= 1 and 0 < line.seconds < 60 for line in answered)
    kept = [path.read_bytes() for path in (watch.out / "images").iterdir()]
    assert {*kept} == {*images[:-1]}


@pytest.mark.parametrize("interface", ["grpc", "http"])
def test_tiles_and_asking_for_the_class_names_show_no_image(
    interface: str, server: Server, pushed: Path, tmp_path: Path
):
    route = grpc_route(0, server.grpc_port) if interface == "grpc" else rest_route(0, server.rest_port)
    with relayed(route) as ([port], recorder), connect(f"{interface}://127.0.0.1:{port}") as model:
        (tmp_path / "image.png").write_bytes(image(1))
        job = Job(model, exported_config(pushed), tiled=True)
        assert job.predict(tmp_path / "image.png").class_names == ("background", *CLASSES)
        wait_until(lambda: len(recorder.exchanges) == 2)
    for exchange in recorder.exchanges:
        with pytest.raises(NotSeenError, match="another signature"):
            seen_in(exchange)


def test_killed_in_the_middle_our_client_goes_on_at_the_servers_own_address(watching: Any, server: Server):
    images = [image(channel) for channel in range(3)] * 40
    with watching() as watch:
        answered = threading.Semaphore(0)
        with (
            connect(watch.grpc, fallback=f"grpc://127.0.0.1:{server.grpc_port}") as model,
            ThreadPoolExecutor(8) as pool,
        ):

            def ask(content: bytes) -> bool:
                prediction = predict_image(model, content)
                answered.release()
                return prediction.valid

            answers = pool.map(ask, images)
            for _ in range(20):
                answered.acquire()
            os.kill(watch.process.pid, signal.SIGKILL)
            assert [*answers] == [True] * len(images)
        with connect(watch.rest, fallback=f"http://127.0.0.1:{server.rest_port}") as model:
            assert predict_image(model, images[0]).valid


@pytest.mark.slow
def test_none_of_two_thousand_requests_of_64_clients_is_lost(watching: Any):
    content = image(2)
    with watching() as watch:

        def client(number: int) -> int:
            with connect(watch.grpc if number % 2 else watch.rest) as model:
                return sum(predict_image(model, content).valid for _ in range(2000 // 64 + (number < 2000 % 64)))

        with ThreadPoolExecutor(64) as pool:
            assert sum(pool.map(client, range(64))) == 2000
        watch.end()
    assert watch.read()[1]["requests"] == 2000


class Canned(grpc.GenericRpcHandler):
    """Says the same of every image, as fast as it can be said."""

    def service(self, handler_call_details: Any) -> Any:
        outputs = {
            "valid": np.array([True]),
            "confidence": np.array([0.75], np.float32),
            "class_fractions": np.array([[0.5, 0.5]], np.float32),
        }
        answer = pb.PredictResponse(outputs={name: to_tensor(array) for name, array in outputs.items()})
        content = answer.SerializeToString()
        return grpc.unary_unary_rpc_method_handler(lambda request, context: content)


ASKED = b"POST /v1/models/flexunet:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
TOLD = b'{"outputs": {"valid": [true], "confidence": [0.75], "class_fractions": [[0.5, 0.5]]}}'
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(TOLD), TOLD)


def asked(content: bytes) -> bytes:
    """A request of REST; all of them are as long."""
    body = b'{"inputs": [{"b64": "%s"}]}' % base64.b64encode(content)
    return ASKED % (2000, body.ljust(2000))


def answer_all(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    left, length = 0, len(asked(b""))
    while content := connection.recv(2**16):
        whole, left = divmod(left + len(content), length)
        connection.sendall(ANSWERED * whole)


def memory(process: int) -> list[int]:
    """Kilobytes of a process and of those that it started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    status = [Path(f"/proc/{one}/status").read_text() for one in (process, *children)]
    return [int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in status]


@pytest.mark.slow
def test_memory_and_disk_are_flat_over_a_hundred_thousand_requests(tmp_path: Path):
    """Both processes, of requests over both interfaces, as fast as they are looked at."""
    generator = np.random.default_rng(0)
    images = [encoded(generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)) for _ in range(500)]
    requests = [predict_request("", {INPUT_IMAGE_BYTES: as_strings([one])}).SerializeToString() for one in images]
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Canned(),))
    measured: list[tuple[list[int], int]] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_all, args=(listening,), daemon=True).start()
        ports: Any = SimpleNamespace(
            grpc_port=server.add_insecure_port("127.0.0.1:0"), rest_port=listening.getsockname()[1]
        )
        server.start()
        with watch_of(ports, tmp_path, "--keep-images", "1") as watch:
            host, port = watch.rest.removeprefix("http://").split(":")
            with (
                grpc.insecure_channel(watch.grpc.removeprefix("grpc://")) as channel,
                socket.create_connection((host, int(port))) as connection,
            ):
                call: Any = channel.unary_unary(PREDICT)
                for part in range(1, 11):
                    for _ in range(100):
                        connection.sendall(b"".join(map(asked, images[:50])))
                        answers = [call.future(request) for request in random.sample(requests, 50)]
                        left = 50 * len(ANSWERED)
                        while left:
                            left -= len(connection.recv(left))
                        assert all(answer.result() for answer in answers)
                    wait_until(lambda: looked_at(tmp_path) == part * 10_000)  # noqa: B023  it is so before the next
                    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
                    measured.append((memory(watch.process.pid), stored))
            watch.end()
    server.stop(None)
    print(measured)
    (early, _), (late, disk) = measured[2], measured[-1]
    assert len(late) == 2 and all(last < 1.1 * first + 8000 for first, last in zip(early, late, strict=True))
    assert disk < 1_300_000
    assert watch.read()[1] == {"requests": 100_000, "images": 100_000, "refused images": 0}


def looked_at(out: Path) -> int:
    return sum(json.loads(path.read_text()).get("requests", 0) for path in (out / "hours").glob("*.json"))


@pytest.mark.slow
def test_the_median_answer_comes_at_most_two_milliseconds_later(watching: Any, server: Server):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    content = encoded(pixels)
    with (
        watching() as watch,
        connect(watch.grpc) as through,
        connect(f"grpc://127.0.0.1:{server.grpc_port}") as direct,
    ):
        seconds: dict[Any, list[float]] = {through: [], direct: []}
        for _ in range(200):
            for model, taken in seconds.items():
                started = time.perf_counter()
                predict_image(model, content)
                taken.append(time.perf_counter() - started)
    added = np.median(seconds[through]) - np.median(seconds[direct])
    print(f"{1000 * added:.2f} ms")
    assert added < 0.002
