"""TFX's Tuner, which also leaves what each trial took and why one failed: its own results have only scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tfx import v1 as tfx
from tfx.components.tuner import executor
from tfx.dsl.components.base import executor_spec
from tfx.types import Artifact, artifact_utils, standard_component_specs

from flexunet.core.features import TRIALS
from flexunet.core.files import write_json

if TYPE_CHECKING:
    from trainer_module.search import Search

Artifacts = dict[str, list[Artifact]]


class Executor(executor.Executor):
    """TFX's in its own steps, and `tuning.json` beside its results."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        found = executor.search(input_dict, exec_properties, self._get_tmp_dir(), print_tuning_summary=False)
        executor.write_best_hyperparameters(found, output_dict)
        results = artifact_utils.get_single_uri(output_dict[standard_component_specs.TUNER_RESULTS_KEY])
        # What our `tuner_fn` gave; imported where it runs, since a pipeline without a search needs no Keras.
        write_json(Path(results) / TRIALS, cast("Search", found).document())


class Tuner(tfx.components.Tuner):
    """TFX's component with that executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
