"""Images in requests of any form; what is no request for images is said to be none, whatever it is."""

import base64
import contextlib
import gzip
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded

from flexunet.live.exchange import Exchange
from flexunet.live.observe import NotSeenError, seen_in
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import PREDICT, as_strings, predict_request, to_tensor

REST = "/v1/models/flexunet:predict"
PICTURE = encoded(np.full((4, 6, 3), 100, np.uint8))
DEEP = encoded(np.arange(12, dtype=np.uint16).reshape(3, 4))
ANSWER = {"valid": True, "confidence": 0.75, "class_fractions": [0.5, 0.5], "class_names": ["background", "dent"]}
B64 = {"b64": base64.b64encode(PICTURE).decode()}


def rest(asked: Any, answered: Any, path: str = REST) -> Exchange:
    return Exchange("rest", path, {}, json.dumps(asked).encode(), json.dumps(answered).encode(), True, 5.0, 0.1)


def framed(message: Any) -> bytes:
    content = message.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


def rpc(images: list[bytes], path: str = PREDICT, signature: str = "", **outputs: np.ndarray) -> Exchange:
    count = len(images)
    told = {
        "valid": np.ones(count, bool),
        "confidence": np.full(count, 0.75, np.float32),
        "class_fractions": np.tile(np.float32([0.5, 0.5]), (count, 1)),
        **outputs,
    }
    response = pb.PredictResponse(outputs={name: to_tensor(array) for name, array in told.items()})
    response.model_spec.version.value = 7
    request = predict_request(signature, {"image_bytes": as_strings(images)})
    return Exchange("grpc", path, {}, framed(request), framed(response), True, 5.0, 0.1)


COLUMNS = {name: [value] for name, value in ANSWER.items()}


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"instances": [B64]}, {"predictions": [ANSWER]}),
        ({"instances": [{"image_bytes": B64}], "signature_name": "serving_rest"}, {"predictions": [ANSWER]}),
        ({"inputs": [B64]}, {"outputs": COLUMNS}),
        ({"inputs": {"image_bytes": [B64]}}, {"outputs": COLUMNS}),
    ],
)
def test_rest_by_rows_and_by_columns(asked: Any, answered: Any):
    [(content, found)] = seen_in(rest(asked, answered))
    assert content == PICTURE
    assert (found.width, found.height, found.kind, found.brightness) == (6, 4, "png", 100)
    assert (found.version, found.confidence, found.shares) == (0, 0.75, {"dent": 0.5})


def test_a_packed_answer_is_unpacked_and_a_bomb_is_none():
    whole = rest({"inputs": [B64]}, {"outputs": COLUMNS})
    packed = replace(whole, answer=gzip.compress(whole.answer), packed=True)
    assert [seen.confidence for _, seen in seen_in(packed)] == [0.75]
    bomb = replace(packed, answer=gzip.compress(b'{"outputs": [' + b" " * 2**26))
    for broken in (bomb, replace(packed, answer=whole.answer)):
        with pytest.raises(NotSeenError, match="not understood"):
            seen_in(broken)


def test_rest_tells_the_version_that_the_request_names():
    for place, version in (("", 0), ("/labels/stable", 0), ("/labels/canary", -1), ("/versions/12", 12)):
        exchange = rest({"instances": [B64]}, {"predictions": [ANSWER]}, f"/v1/models/flexunet{place}:predict")
        assert [seen.version for _, seen in seen_in(exchange)] == [version]


def test_grpc_with_pictures_that_only_the_model_can_read():
    found = [seen for _, seen in seen_in(rpc([PICTURE, DEEP, b"none"], valid=np.array([True, True, False])))]
    assert [(seen.valid, seen.width, seen.confidence, seen.version) for seen in found] == [
        (True, 6, 0.75, 7),
        (True, None, 0.75, 7),
        (False, None, None, 7),
    ]
    # Of before 0.2.0, without names.
    assert found[0].shares == {"1": 0.5}


@pytest.mark.parametrize(
    ("exchange", "reason"),
    [
        (rpc([PICTURE], path="/tensorflow.serving.ModelService/GetModelStatus"), "another method"),
        (rpc([PICTURE], signature="pixels"), "another signature"),
        (rpc([PICTURE, PICTURE], valid=np.array([True])), "not understood"),
        (Exchange("grpc", PREDICT, {}, b"\1\0\0\0\1x", b"", True, 0, 0), "compressed, or more than one message"),
        (Exchange("grpc", PREDICT, {}, b"\0\0\0\0\1\xff", framed(pb.PredictResponse()), True, 0, 0), "not understood"),
        (
            Exchange("grpc", PREDICT, {}, framed(pb.PredictRequest()), framed(pb.PredictResponse()), True, 0, 0),
            "other inputs",
        ),
        (rest({"instances": [B64]}, {"predictions": [{"mask_png_bytes": "x"}]}), "other outputs were asked for"),
        (rest({"instances": [1, 2]}, {"predictions": [ANSWER]}), "not understood"),
        (rest([], {}), "not understood"),
        (rest({}, {}, path="/v1/models/flexunet"), "another method"),
    ],
)
def test_what_holds_no_images_is_told_in_a_few_words(exchange: Exchange, reason: str):
    with pytest.raises(NotSeenError, match=reason):
        seen_in(exchange)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(["grpc", "rest"]), st.booleans())
def test_no_bytes_end_it(request: bytes, answer: bytes, interface: Any, is_framed: bool):
    if is_framed and interface == "grpc":
        request, answer = (b"\0" + len(part).to_bytes(4, "big") + part for part in (request, answer))
    path = PREDICT if interface == "grpc" else REST
    with contextlib.suppress(NotSeenError):
        assert seen_in(Exchange(interface, path, {}, request, answer, True, 0.0, 0.0)) == []
