"""Modules that TFX, its libraries and Keras import at start and no node of ours uses: each loads at its first use.

`from tfx import v1` imports 10,000 modules, and half of its time goes to Google's cloud clients, notebooks' widgets,
Kubernetes' client, scikit-learn, nltk and plots. Here they are postponed, not replaced: `import sklearn` gives a module
whose code runs, in place, when one of its names is asked for or one of its own modules is imported. A user's node that
needs it gets the real one. A name that is not installed, or that another release renamed, is simply not postponed.

The `__init__.py` of every package that uses TFX imports this module, and so it comes before TensorFlow, Beam and TFX.
It is here because it is below all of them; nothing else of `flexunet` imports it, and it imports only Python's own.
What stays, and why: docs/explanation/start.md.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
import types
from collections.abc import Iterable, Sequence
from typing import Any, Final

# A name is here if its importers hold the module itself: `from package import name` loads the package.
NAMES: Final = frozenset(
    {
        # TFX: AI Platform and BigQuery components; Kubeflow's and Vertex AI's runners; InfraValidator on Kubernetes.
        "tfx.v1.extensions",
        "tfx.v1.orchestration.experimental",
        "tfx.components.infra_validator.model_server_runners.kubernetes_runner",
        "tfx.utils.kube_utils",
        "kubernetes",
        "kfp",
        # Beam: sources and sinks in Google's cloud.
        "google.cloud.aiplatform",
        "google.cloud.bigquery",
        "google.cloud.bigquery_storage_v1",
        "google.cloud.pubsub",
        # TensorFlow: addresses of workers on Compute Engine.
        "googleapiclient.discovery",
        # Model Analysis and Keras: widgets in a notebook; ROUGE's and BLEU's tokenizers and locks; t-tests.
        "IPython",
        "ipywidgets",
        "tensorflow_model_analysis.view",
        "nltk",
        "nltk.stem",
        "nltk.stem.porter",
        "portalocker",
        "scipy.stats",
        # Keras Tuner, which TFX's Tuner imports: Bayesian search.
        "scipy.optimize",
        "sklearn.exceptions",
        "sklearn.gaussian_process",
        "sklearn.model_selection",
        "sklearn.pipeline",
        # Keras: scikit-learn's estimators, galleries of images, formats that we do not draw.
        "keras._tf_keras.keras.visualization",
        "keras._tf_keras.keras.wrappers",
        "keras.src.visualization",
        "keras.visualization",
        "keras.wrappers",
        "matplotlib",
        "sklearn",
    }
)
# Packages that only collect names: their modules can be imported without the package's own code, and none of them
# asks the package for a name (IPython's do, and would meet themselves half imported).
COLLECTIONS: Final = frozenset({"tensorflow_model_analysis.view"})
# What a module has from its file, and nobody loads it for; `__all__` and `__version__` are made by its code.
_MADE_BY_CODE: Final = ("__all__", "__version__")


def postpone(names: Iterable[str] = NAMES, collections: Iterable[str] = COLLECTIONS) -> None:
    """From now on, `import name` gives a module that loads at its first use; what was imported before stays."""
    sys.meta_path.insert(0, _Finder(frozenset(names) - set(sys.modules), frozenset(collections)))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `names` where Python would, and lets them load at their first use.

    Loading is an ordinary import: Python's locks hold, one for each module, with their detection of deadlocks.
    """

    def __init__(self, names: frozenset[str], collections: frozenset[str]):
        self.names, self.collections = names, collections
        # Made by an import, their code has not run; asked for, their code is about to run or runs.
        self.waiting: dict[str, _Postponed] = {}
        self.asked: dict[str, _Postponed] = {}
        self._lock = threading.Lock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A postponed module, or the real one if it was asked for; of a waiting package's modules none: it loads."""
        if fullname in self.names:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(self, spec.loader)
            return spec
        has_loaded = self._load_packages_above(fullname)
        # The package's own code may have imported it meanwhile: a second module of the same name must not be made.
        found = sys.modules.get(fullname) if has_loaded else None
        return None if found is None else importlib.machinery.ModuleSpec(fullname, _Found(found))

    def has_own(self, package: types.ModuleType, name: str) -> bool:
        """Whether `from package import name` means a module that can be had while the package waits."""
        own, child = package.__name__, f"{package.__name__}.{name}"
        if own not in self.waiting or child in self.names:
            return own in self.waiting
        return own in self.collections and importlib.machinery.PathFinder.find_spec(child, package.__path__) is not None

    def load(self, name: str) -> None:
        """Runs the module's code; returns when it has run, also if that is another thread's work."""
        self._load_packages_above(name)
        with self._lock:
            if name in self.waiting:
                self.asked[name] = self.waiting.pop(name)
                sys.modules.pop(name, None)
        importlib.import_module(name)

    def _load_packages_above(self, name: str) -> bool:
        """The outermost first; returns whether there was one to load."""
        package, dot, _ = name.rpartition(".")
        has_loaded = bool(dot) and self._load_packages_above(package)
        if package not in self.waiting or package in self.collections:
            return has_loaded
        self.load(package)
        return True


class _Postponed(types.ModuleType):
    """A module whose code has not run, or runs; afterwards it is an ordinary module."""

    def __init__(self, name: str, finder: _Finder):
        super().__init__(name)
        self.__dict__["__finder__"] = finder

    def __getattr__(self, name: str) -> Any:
        own, finder = self.__name__, self.__dict__.get("__finder__")
        if name.startswith("__") and name not in _MADE_BY_CODE:
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        # None: another thread has loaded it since this one missed the name.
        if finder is not None:
            if finder.has_own(self, name):
                return importlib.import_module(f"{own}.{name}")
            finder.load(own)
        return types.ModuleType.__getattribute__(self, name)

    def __dir__(self) -> Iterable[str]:
        self.__dict__["__finder__"].load(self.__name__)
        return types.ModuleType.__dir__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


class _Loader(importlib.abc.Loader):
    """Makes a module and runs its code only if it was asked for."""

    def __init__(self, finder: _Finder, real: importlib.abc.Loader):
        self._finder, self._real = finder, real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The one that is there already, if it was postponed."""
        made = self._finder.asked.get(spec.name) or self._finder.waiting.get(spec.name)
        return made or _Postponed(spec.name, self._finder)

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs its code in place; a module that fails waits again, as an import that failed can be repeated."""
        name, finder = module.__name__, self._finder
        assert isinstance(module, _Postponed) and module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._real
        if name not in finder.asked:
            finder.waiting[name] = module
            return
        try:
            self._real.exec_module(module)
        except BaseException:
            finder.waiting[name] = finder.asked.pop(name)
            raise
        module.__class__ = types.ModuleType
        del module.__dict__["__finder__"], finder.asked[name]
        finder.names -= {name}


class _Found(importlib.abc.Loader):
    """Hands out a module that is there, as it is."""

    def __init__(self, module: types.ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


postpone()
