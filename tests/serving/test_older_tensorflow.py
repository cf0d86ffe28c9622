"""The export on the library of an older TensorFlow: what a server of that version would do with it."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet.serving.c_api import SavedModel, load_arrays, save_arrays
from flexunet.serving.rounding import ROUNDING
from flexunet.serving.wire import read_warmup

ROOT = Path(__file__).parents[2]
OLDER = "2.20.0"

RUN = """
import sys
from pathlib import Path
from flexunet.serving.c_api import SavedModel, load_arrays, save_arrays

directory, library, folder = map(Path, sys.argv[1:4])
with SavedModel(directory, library) as model:
    for inputs in sorted(folder.glob("*.inputs.npz")):
        signature = inputs.name.partition(".")[0]
        save_arrays(folder / f"{signature}.outputs.npz", model.run(signature, load_arrays(inputs)))
"""


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.downloads
def test_every_served_signature_gives_the_same_on_an_older_library(color_export: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    command = [uv, "pip", "install", "--no-deps", "--python", sys.executable, "--target", str(tmp_path / "old")]
    subprocess.run([*command, f"tensorflow=={OLDER}"], check=True, capture_output=True)
    requests = {
        signature: inputs for signature, inputs in read_warmup(color_export) if len(next(iter(inputs.values()))) == 1
    }
    for signature, inputs in requests.items():
        save_arrays(tmp_path / f"{signature}.inputs.npz", inputs)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    old = tmp_path / "old" / "tensorflow"
    subprocess.run([sys.executable, "-c", RUN, str(color_export), str(old), str(tmp_path)], env=environment, check=True)
    with SavedModel(color_export) as model:
        for signature, inputs in requests.items():
            expected, found = model.run(signature, inputs), load_arrays(tmp_path / f"{signature}.outputs.npz")
            assert sorted(found) == sorted(expected)
            for name, array in expected.items():
                if name.startswith("mask_png"):
                    # Another library may round otherwise, and compress otherwise.
                    same = [decoded(one) == decoded(other) for one, other in zip(found[name], array, strict=True)]
                    assert np.mean(same) > 0.99
                elif array.dtype.hasobject:
                    assert list(found[name]) == list(array)
                elif array.dtype.kind == "u":
                    assert np.mean(found[name] == array) > 0.99
                else:
                    np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=ROUNDING)
    assert len(requests) == 5
