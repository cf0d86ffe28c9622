"""What is postponed is a real module at its first use; what TFX's users need beside our nodes works."""

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flexunet.core import postponed

ROOT = Path(__file__).parents[2]
# In a process of its own, as a user's node would: nothing has imported these before.
USE = """
import sys
import transform_module
import tfx.components
from tfx import v1 as tfx

heavy_ones = "sklearn.base matplotlib.pyplot ipywidgets.widgets kubernetes.client google.cloud.aiplatform nltk.data"
for heavy in heavy_ones.split():
    assert heavy not in sys.modules, heavy
assert tfx.components.Trainer and tfx.components.Evaluator and tfx.components.StatisticsGen and tfx.components.Tuner

from tfx.v1.extensions import google_cloud_ai_platform
assert google_cloud_ai_platform.Trainer is tfx.extensions.google_cloud_ai_platform.Trainer
import IPython, kubernetes, matplotlib.pyplot, nltk, pandas, sklearn, tensorflow_data_validation as tfdv
from sklearn.linear_model import LinearRegression
assert sklearn.base.BaseEstimator in LinearRegression.__mro__ and sklearn.__version__
assert kubernetes.client.V1Pod(kind="Pod").kind == "Pod"
assert pandas.DataFrame({"a": [1]}).shape == (1, 1) and matplotlib.pyplot.figure()
assert IPython.get_ipython() is None and nltk.stem.porter.PorterStemmer().stem("plates") == "plate"
assert tfdv.StatsOptions and tfdv.types.FeatureName

import keras, tensorflow_model_analysis as tfma
assert tfma.EvalConfig and tfma.view.render_plot and keras.wrappers.SKLearnClassifier
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`make({"box.part": "value = 1"}, "box")`: modules that can be imported, and which of them are postponed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)

    def write(sources: dict[str, str], *names: str, collections: tuple[str, ...] = ()) -> None:
        packages = {name.rpartition(".")[0] for name in sources}
        for name, source in sources.items():
            path = tmp_path.joinpath(*name.split("."))
            path = path / "__init__.py" if name in packages else path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        importlib.invalidate_caches()
        postponed.postpone(names, collections)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def runs(module: ModuleType) -> bool:
    return "value" in vars(module)


def test_a_module_loads_in_place_at_its_first_name(make: Callable[..., None]) -> None:
    make({"lone": "value = []"}, "lone")
    lone = importlib.import_module("lone")
    assert not runs(lone)
    assert lone.value is lone.value and sys.modules["lone"] is lone and type(lone) is ModuleType


def test_a_module_of_a_waiting_package_loads_the_package_and_exists_once(make: Callable[..., None]) -> None:
    make({"box": "from box import part\nvalue = 1", "box.part": "class Part: pass"}, "box")
    box = importlib.import_module("box")
    part = importlib.import_module("box.part")
    assert runs(box) and box.part is part and sys.modules["box.part"] is part and part.__spec__.name == "box.part"


def test_a_postponed_part_of_a_postponed_package_can_be_imported_by_name(make: Callable[..., None]) -> None:
    make({"box": "from box.part import name\nvalue = 1", "box.part": "name = value = 2"}, "box", "box.part")
    box = importlib.import_module("box")
    assert box.part is importlib.import_module("box.part") and not runs(box) and not runs(box.part)
    assert box.part.name == 2 and runs(box)


def test_modules_of_a_collection_leave_it_waiting(make: Callable[..., None]) -> None:
    make({"box": "value = 1", "box.part": "name = 2"}, "box", collections=("box",))
    box = importlib.import_module("box")
    assert box.part.name == 2 and not runs(box)
    assert box.value == 1


def test_a_missing_name_is_an_attribute_error_and_a_missing_module_an_import_error(make: Callable[..., None]) -> None:
    make({"lone": "value = 1"}, "lone", "absent")
    with pytest.raises(AttributeError, match=r"module 'lone' has no attribute 'other'"):
        _ = importlib.import_module("lone").other
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("absent")


def test_a_module_that_fails_says_so_at_each_use(make: Callable[..., None]) -> None:
    make({"broken": "import there_is_no_such_module"}, "broken")
    broken = importlib.import_module("broken")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
            _ = broken.value
    assert importlib.import_module("broken") is broken


def test_threads_wait_for_the_one_that_loads(make: Callable[..., None]) -> None:
    make({"slow": "import time\ntime.sleep(0.3)\nvalue = 1"}, "slow")
    slow, found = importlib.import_module("slow"), []
    threads = [threading.Thread(target=lambda: found.append(slow.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8


def test_what_is_loaded_already_and_what_is_reloaded_stays_ordinary(make: Callable[..., None]) -> None:
    make({"lone": "value = []"}, "lone", "json")
    lone = importlib.import_module("lone")
    old = lone.value
    assert importlib.reload(lone).value is not old
    assert type(sys.modules["json"]) is ModuleType


@pytest.mark.slow
def test_what_our_nodes_do_not_use_works_for_those_of_a_user() -> None:
    done = subprocess.run([sys.executable, "-c", USE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
