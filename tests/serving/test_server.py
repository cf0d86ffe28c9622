"""The development server is as strict as TF Serving: its rules, request by request, and what it does under load.

The answers are those of TF Serving 2.20's sources: `predict_util.cc`, `json_tensor.cc`, `http_rest_api_handler.cc`,
`http_server.cc` (codes), `get_model_status_impl.cc`, `server_core.cc`, `prediction_service_impl.cc` (deadlines); and of
TensorFlow's, `saved_model/util.cc` (names of inputs) and `batch_kernels.cc` (what a batch is cancelled with).
"""

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import urllib3
from PIL import Image
from processes import ROOT as CHECKOUT
from waiting import wait_until

from flexunet.serving import limits
from flexunet.serving.c_api import SavedModelError
from flexunet.serving.client import Options, connect, predict_image
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.server import Server, _answered
from flexunet.serving.transport import GIVEN_UP
from flexunet.serving.wire import MODEL_METADATA, MODEL_STATUS, PREDICT, as_strings, from_tensor, to_tensor

IDLE, READY = grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.READY
IMAGES = as_strings([b"none"])
PIXELS = np.zeros((1, 2, 2, 3), np.uint8)


def call(server: Server, method: str, request: Any, answer: Any, seconds: float | None = None) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        function: Any = channel.unary_unary(method, type(request).SerializeToString, answer.FromString)
        return function(request, timeout=seconds)


def request(inputs: dict[str, np.ndarray], signature: str = "", outputs: tuple[str, ...] = (), **spec: Any) -> Any:
    model = pb.ModelSpec(**{"name": "flexunet", **spec}, signature_name=signature)
    tensors = {name: to_tensor(array) for name, array in inputs.items()}
    return pb.PredictRequest(model_spec=model, inputs=tensors, output_filter=outputs)


GRPC = {
    "default signature": (request({"image_bytes": IMAGES}), "OK", ""),
    "its version": (request({"image_bytes": IMAGES}, version={"value": 1}), "OK", ""),
    "many rows": (request({"image_bytes": as_strings([b"none"] * 40)}), "OK", ""),
    "other model": (request({}, name="other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
    "no model": (request({}, name=""), "INVALID_ARGUMENT", "no name specified"),
    "no model spec": (pb.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "other version": (request({}, version={"value": 9}), "NOT_FOUND", "Specific(flexunet, 9)"),
    "label": (request({}, version_label="new"), "INVALID_ARGUMENT", "Unrecognized servable version label: new"),
    "signature": (request({}, "other"), "FAILED_PRECONDITION", 'Serving signature key "other" not found.'),
    "no input": (request({}), "INVALID_ARGUMENT", "Missing but required: {image_bytes}"),
    "other input": (
        request({"image": IMAGES}),
        "INVALID_ARGUMENT",
        "Signature input alias: image_bytes(feed name: serving_default_image_bytes:0) not found in request",
    ),
    "one more": (request({"image_bytes": IMAGES, "x": IMAGES}), "INVALID_ARGUMENT", "2!=1"),
    "type": (request({"image_bytes": PIXELS}), "INVALID_ARGUMENT", "image_bytes"),
    "scalar": (request({"image_bytes": np.array(b"none", object)}), "INVALID_ARGUMENT", "hape"),
    "matrix": (request({"image_bytes": IMAGES[None]}), "INVALID_ARGUMENT", "hape"),
    "no rows": (request({"image_bytes": IMAGES[:0]}), "INVALID_ARGUMENT", "the batch is empty"),
    "no rows of pixels": (request({"pixels": PIXELS[:0]}, "pixels"), "INVALID_ARGUMENT", "the batch is empty"),
    "rank of pixels": (request({"pixels": PIXELS[0]}, "pixels"), "INVALID_ARGUMENT", "hape"),
    "an output": (request({"image_bytes": IMAGES}, "", ("error",)), "OK", ""),
    "other output": (
        request({"image_bytes": IMAGES}, "", ("x",)),
        "INVALID_ARGUMENT",
        "alias not found in signature: x",
    ),
    "long words": (request({"image_bytes": IMAGES}, "", ("x" * 2000,)), "INVALID_ARGUMENT", "x...TRUNCATED"),
    "long words of other letters": (
        request({"image_bytes": IMAGES}, "", ("傷" * 2000,)),
        "INVALID_ARGUMENT",
        f"alias not found in signature: {'傷' * 326}...TRUNCATED",
    ),
    "output twice": (request({"image_bytes": IMAGES}, "", ("error",) * 2), "INVALID_ARGUMENT", "duplicate output"),
}


@pytest.mark.parametrize("name", GRPC)
def test_grpc_answers_as_tf_serving(server: Server, name: str) -> None:
    message, code, words = GRPC[name]
    if code == "OK":
        response = call(server, PREDICT, message, pb.PredictResponse)
        assert (response.model_spec.version.value, response.model_spec.signature_name) == (1, "serving_default")
        rows = message.inputs["image_bytes"].tensor_shape.dim[0].size
        assert len(from_tensor(response.outputs["error"])) == rows
        assert not message.output_filter or set(response.outputs) == set(message.output_filter)
        return
    with pytest.raises(grpc.RpcError) as raised:
        call(server, PREDICT, message, pb.PredictResponse)
    error: Any = raised.value
    assert error.code().name == code
    assert words in error.details()


B64 = {"b64": base64.b64encode(b"none").decode()}
ROOT = "/v1/models/flexunet"


def body(**values: Any) -> bytes:
    return json.dumps({"signature_name": "serving_rest", **values}).encode()


REST = {
    "rows": ("POST", f"{ROOT}:predict", body(instances=[B64, B64]), 200, "predictions"),
    "named rows": ("POST", f"{ROOT}:predict", body(instances=[{"image_bytes": B64}]), 200, "predictions"),
    "columns": ("POST", f"{ROOT}:predict", body(inputs={"image_bytes": [B64]}), 200, "outputs"),
    "a plain column": ("POST", f"{ROOT}:predict", body(inputs=[B64]), 200, "outputs"),
    "plain strings": ("POST", f"{ROOT}:predict", body(inputs=["none"]), 200, "outputs"),
    "more columns": ("POST", f"{ROOT}:predict", body(inputs={"image_bytes": [B64], "x": [1]}), 200, "outputs"),
    "version": ("POST", f"{ROOT}/versions/1:predict", body(instances=[B64]), 200, "predictions"),
    "any case": ("POST", f"{ROOT}:PREDICT", body(instances=[B64]), 200, "predictions"),
    "GET of predict": ("GET", f"{ROOT}:predict", b"", 400, f"Malformed request: GET {ROOT}:predict"),
    "POST of status": ("POST", ROOT, b"{}", 400, f"Malformed request: POST {ROOT}"),
    "another path": ("GET", "/", b"", 404, "Malformed request"),
    "another model": ("GET", "/v1/models/other", b"", 404, "Could not find any versions of model other"),
    "another version": ("GET", f"{ROOT}/versions/9", b"", 404, "Could not find version 9 of model flexunet"),
    "predict of another": ("POST", "/v1/models/other:predict", body(instances=[B64]), 404, "Latest(other)"),
    "version of predict": ("POST", f"{ROOT}/versions/9:predict", body(instances=[B64]), 404, "Specific(flexunet, 9)"),
    "label": ("POST", f"{ROOT}/labels/new:predict", body(instances=[B64]), 400, "servable version label: new"),
    "no body": ("POST", f"{ROOT}:predict", b"", 400, "The document is empty"),
    "half a body": ("POST", f"{ROOT}:predict", b"{", 400, "JSON Parse error"),
    "a list": ("POST", f"{ROOT}:predict", b"[]", 400, "Is not object"),
    "nothing": ("POST", f"{ROOT}:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
    "both": ("POST", f"{ROOT}:predict", body(instances=[B64], inputs=[B64]), 400, "expecting only one of"),
    "signature": (
        "POST",
        f"{ROOT}:predict",
        body(signature_name="x", inputs=[]),
        400,
        '"x" not found in signature def',
    ),
    "no signature": ("POST", f"{ROOT}:predict", body(signature_name=3, inputs=[]), 400, "must be a string value"),
    "no list": ("POST", f"{ROOT}:predict", body(instances=B64), 400, "} Expecting 'instances' to be an list/array"),
    "no rows": ("POST", f"{ROOT}:predict", body(instances=[]), 400, "} No values in 'instances' array"),
    "mixed rows": ("POST", f"{ROOT}:predict", body(instances=[B64, {"image_bytes": B64}]), 400, "at item 1 of input"),
    "other keys": (
        "POST",
        f"{ROOT}:predict",
        body(instances=[{"image_bytes": B64}, {"x": B64}]),
        400,
        "element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: x",
    ),
    "no keys": ("POST", f"{ROOT}:predict", body(instances=[{}]), 400, "keys must be equal to: image_bytes"),
    "a number among rows": (
        "POST",
        f"{ROOT}:predict",
        body(instances=[B64, 3]),
        400,
        "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 3 Type: Number is not of expected type",
    ),
    "no column": ("POST", f"{ROOT}:predict", body(inputs={"x": [B64]}), 400, "Missing named input: image_bytes"),
    "scalar": ("POST", f"{ROOT}:predict", body(inputs={"image_bytes": B64}), 400, "hape"),
    "a scalar alone": ("POST", f"{ROOT}:predict", body(inputs=B64), 400, "hape"),
    "no row of a column": ("POST", f"{ROOT}:predict", body(inputs={"image_bytes": []}), 400, "the batch is empty"),
    "numbers": (
        "POST",
        f"{ROOT}:predict",
        body(inputs={"image_bytes": [3]}),
        400,
        "Type: Number is not of expected type",
    ),
    "bad base64": ("POST", f"{ROOT}:predict", body(instances=[{"b64": "%"}]), 400, "Unable to base64 decode"),
    "deep": ("POST", f"{ROOT}:predict", body(instances=[[B64], B64]), 400, "Expecting shape [1] but got: []"),
    "ragged": (
        "POST",
        f"{ROOT}:predict",
        body(signature_name="pixels", inputs=[[1], [1, 2]]),
        400,
        "unexpected size: 2",
    ),
    "fractions": (
        "POST",
        f"{ROOT}:predict",
        body(signature_name="pixels", inputs=[[[[0.5]]]]),
        400,
        "expected type: uint8",
    ),
}


@pytest.mark.parametrize("name", REST)
def test_rest_answers_as_tf_serving(server: Server, name: str) -> None:
    method, path, content, status, words = REST[name]
    response = urllib3.request(method, f"http://127.0.0.1:{server.rest_port}{path}", body=content or None, timeout=60)
    answer = response.json()
    assert response.status == status, answer
    if status != 200:
        assert words in answer["error"]
        return
    rows = (
        answer["predictions"]
        if words == "predictions"
        else [dict(zip(answer["outputs"], row, strict=True)) for row in zip(*answer["outputs"].values(), strict=True)]
    )
    assert rows[0]["valid"] is False and "PNG" in rows[0]["error"] and rows[0]["mask_png_bytes"] == {"b64": ""}


RUDE = {
    "no number": (b"Content-Length: ten\r\n\r\n", "Content-Length is 'ten'"),
    "negative": (b"Content-Length: -1\r\n\r\n", "Content-Length is '-1'"),
    "enormous": (b"Content-Length: 99999999999\r\n\r\n", "Content-Length is '99999999999'"),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "not in chunks"),
    "deep": (b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000, "JSON Parse error"),
}


@pytest.mark.parametrize("name", RUDE)
def test_a_rude_client_of_rest_is_told_so_and_let_go(server: Server, name: str) -> None:
    sent, words = RUDE[name]
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as connection:
        connection.sendall(f"POST {ROOT}:predict HTTP/1.1\r\nHost: x\r\n".encode() + sent)
        answer = connection.recv(2000).decode()
        assert answer.startswith("HTTP/1.1 400 ")
        while words not in answer:
            more = connection.recv(2000).decode()
            assert more, answer
            answer += more


def test_status_and_metadata_are_told_over_both_interfaces(server: Server) -> None:
    url = f"http://127.0.0.1:{server.rest_port}{ROOT}"
    version = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert urllib3.request("GET", url).json() == {"model_version_status": [version]}
    told = urllib3.request("GET", f"{url}/metadata").json()
    assert told["model_spec"] == {"name": "flexunet", "signature_name": "", "version": "1"}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert signature["inputs"]["image_bytes"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert signature["method_name"] == "tensorflow/serving/predict"
    spec = {"name": "flexunet"}
    [status] = call(
        server, MODEL_STATUS, pb.GetModelStatusRequest(model_spec=spec), pb.GetModelStatusResponse
    ).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, 30, 0)
    wanted = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
    packed = call(server, MODEL_METADATA, wanted, pb.GetModelMetadataResponse).metadata["signature_def"]
    assert "serving_default" in pb.SignatureDefMap.FromString(packed.value).signature_def
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        call(server, MODEL_STATUS, pb.GetModelStatusRequest(), pb.GetModelStatusResponse)
    for fields in ([], ["other"]):
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            wanted = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=fields)
            call(server, MODEL_METADATA, wanted, pb.GetModelMetadataResponse)


def test_the_mask_of_serving_rest_is_base64(server: Server, good_image: Any) -> None:
    row = {"b64": base64.b64encode(good_image[0]).decode()}
    answer = urllib3.request(
        "POST", f"http://127.0.0.1:{server.rest_port}{ROOT}:predict", body=body(instances=[row, row]), timeout=60
    ).json()
    first, second = answer["predictions"]
    assert first == second and first["valid"] is True
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["mask_png_bytes"]["b64"]))))
    np.testing.assert_array_equal(mask, good_image[1])


def load(url: str, image: bytes, clients: int, requests: int) -> tuple[Counter[str], float]:
    """Every client has a connection of its own; returns how the requests ended, and the longest answer's seconds."""
    ends: Counter[str] = Counter()
    lock, longest = threading.Lock(), [0.0]

    def client(number: int) -> None:
        with connect(url, Options()) as model:
            for _ in range(number, requests, clients):
                started = time.monotonic()
                try:
                    end = "answered" if predict_image(model, image).valid else "refused"
                except Exception as error:  # noqa: BLE001  counted by its words
                    end = str(error)
                with lock:
                    ends[end] += 1
                    longest[0] = max(longest[0], time.monotonic() - started)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return ends, longest[0]


@pytest.mark.parametrize("interface", ["grpc", "http"])
def test_64_clients_lose_nothing(server: Server, interface: str, good_image: Any) -> None:
    url = f"{interface}://127.0.0.1:{server.grpc_port if interface == 'grpc' else server.rest_port}"
    ends, longest = load(url, good_image[0], 64, 256)
    assert ends == {"answered": 256} and longest < limits.CLIENT_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("interface", ["grpc", "http"])
def test_64_clients_lose_none_of_2000_requests(server: Server, interface: str, good_image: Any) -> None:
    url = f"{interface}://127.0.0.1:{server.grpc_port if interface == 'grpc' else server.rest_port}"
    ends, longest = load(url, good_image[0], 64, 2000)
    assert ends == {"answered": 2000} and longest < limits.CLIENT_SECONDS


def test_calls_beyond_the_threads_are_refused_and_come_again(color_export: Path, good_image: Any) -> None:
    """4 threads and 32 clients: without coming again most are refused, with it none."""
    with Server(color_export, grpc_port=0, rest_port=0, grpc_threads=4) as small:
        url = f"grpc://127.0.0.1:{small.grpc_port}"
        with connect(url, Options(attempts=1)) as model, ThreadPoolExecutor(32) as pool:
            images = as_strings([good_image[0]] * limits.BATCH_ROWS)
            calls = [pool.submit(model.run, "serving_default", {"image_bytes": images}) for _ in range(64)]
            errors = Counter(str(call.exception()).split(": ")[1] for call in calls if call.exception())
        assert set(errors) == {"RESOURCE_EXHAUSTED"}
        assert load(url, good_image[0], 32, 64)[0] == {"answered": 64}


@pytest.mark.parametrize("code", [1, 2, 4, 6, 7, 10, 13, 15, 16])
def test_a_code_of_grpc_is_that_of_http(code: int) -> None:
    expected = {1: 499, 4: 504, 6: 409, 7: 403, 10: 409, 16: 401}

    def fails() -> None:
        raise SavedModelError("words", code)

    assert _answered(fails) == (expected.get(code, 500), {"error": "words"})


def test_one_callers_deadline_costs_no_other_an_answer(server: Server, good_image: Any, make_bomb: Any) -> None:
    """A batch is cancelled at the deadline of the request that came last in it; ours come again, by both interfaces."""
    slow = request({"image_bytes": as_strings([make_bomb(1500, 1500)] * limits.BATCH_ROWS)})
    mate = request({"image_bytes": as_strings([good_image[0]])})

    def answered(url: str) -> bool:
        with connect(url, Options()) as model:
            return predict_image(model, good_image[0]).valid

    with ThreadPoolExecutor(8) as pool:
        # Two are under way and one waits, so that the next ones share a batch.
        busy = [pool.submit(call, server, PREDICT, slow, pb.PredictResponse) for _ in range(3)]
        time.sleep(0.2)
        bare = pool.submit(call, server, PREDICT, mate, pb.PredictResponse)
        urls = (f"grpc://127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}")
        ours = [pool.submit(answered, url) for url in urls]
        time.sleep(0.2)
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            call(server, PREDICT, mate, pb.PredictResponse, seconds=0.2)
        lost: Any = bare.exception()
        assert lost is not None and lost.code().name in {"CANCELLED", "INTERNAL"}
        assert lost.code().name == "CANCELLED" or GIVEN_UP in lost.details()
        assert all(answer.result() for answer in ours)
        assert not any(blocker.exception() for blocker in busy)


def test_a_connection_that_is_old_is_left_for_another_and_no_call_is_lost(color_export: Path, good_image: Any) -> None:
    """Nobody comes again here: the server says that it takes no more calls, and ends those that it has."""
    states: list[grpc.ChannelConnectivity] = []
    message = request({"image_bytes": as_strings([good_image[0]] * 4)})
    with Server(color_export, grpc_port=0, rest_port=0, connection_seconds=0.3) as hasty:  # noqa: SIM117
        with grpc.insecure_channel(f"127.0.0.1:{hasty.grpc_port}") as channel, ThreadPoolExecutor(8) as pool:
            channel.subscribe(states.append)
            function: Any = channel.unary_unary(PREDICT, type(message).SerializeToString, pb.PredictResponse.FromString)
            ends = time.monotonic() + 1.5

            def ask(_: int) -> int:
                answers = 0
                while time.monotonic() < ends:
                    answers += len(function(message).outputs) > 0
                return answers

            assert min(pool.map(ask, range(8))) > 0
            # The last one has nothing under way, and stays closed until it is wanted.
            wait_until(lambda: states[-1:] == [IDLE] and READY in states)
            assert function(message).outputs


FULL_QUEUE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from flexunet.serving.c_api import SavedModel, SavedModelError
from flexunet.serving.wire import as_strings
image = Path(sys.argv[2]).read_bytes()
def code(model):
    try:
        model.run("serving_default", {"image_bytes": as_strings([image] * 16)})
    except SavedModelError as error:
        return error.code
with SavedModel(Path(sys.argv[1])) as model, ThreadPoolExecutor(160) as pool:
    print(sorted({code for code in pool.map(lambda _: code(model), range(160))}, key=str))
"""


def test_a_full_queue_is_unavailable(color_export: Path, tmp_path: Path) -> None:
    """64 batches of 16 rows wait, two are under way, the others are refused at once."""
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    command = [sys.executable, "-c", FULL_QUEUE, str(color_export), str(tmp_path / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[14, None]"


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"


@pytest.mark.parametrize("language", ["sh", "python"])
def test_a_first_call_without_our_client(server: Server, good_image: Any, tmp_path: Path, language: str) -> None:
    """As the how-to says it, but for the port."""
    section = HOW_TO.read_text().partition("## Ask it without our client")[2]
    code = section.partition(f"```{language}\n")[2].partition("```")[0].replace(":8501", f":{server.rest_port}")
    (tmp_path / "photo.png").write_bytes(good_image[0])
    command = ["sh", "-ec", code] if language == "sh" else [sys.executable, "-ISc", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    if language == "python":
        assert done.stdout.startswith("{'background': 0.")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), good_image[1])
        return
    [row] = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    assert row["valid"] and row["class_names"] == ["background", "inclusion", "patches", "scratches"]


def test_the_probe_of_the_manifests_gets_its_answer(server: Server) -> None:
    script = CHECKOUT / "flexunet" / "serving" / "deploy" / "base" / "predict.sh"
    assert subprocess.run(["bash", script, "60", str(server.rest_port)], timeout=90).returncode == 0
