"""Tuner's `tuner_fn`: records and a space of settings in, KerasTuner's search over our own training out."""

from pathlib import Path
from typing import TYPE_CHECKING

from flexunet.core.config.tune import TunerConfig
from trainer_module.search import open_search
from trainer_module.trainer import Job, check_encoder

if TYPE_CHECKING:
    from tfx import v1 as tfx
    from tfx.components.tuner.component import TunerFnResult


def tuner_fn(fn_args: "tfx.components.FnArgs") -> "TunerFnResult":
    """A search that learns from `train` and is steered by `eval`."""
    from tfx.components.tuner.component import TunerFnResult

    custom = fn_args.custom_config
    config = TunerConfig.model_validate_json(custom["config"])
    check_encoder(config.train, custom)
    directory = Path(custom["directory"])
    job = Job(fn_args.train_files, fn_args.eval_files, directory, directory, custom["code"])
    search = open_search(job, config, directory)
    return TunerFnResult(search, fit_kwargs={})
