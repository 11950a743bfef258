"""Ray Tune over whole runs: every trial is a run, all of them share one store.

What two trials have in common (features, members of one partition, a final detector on the same kept images) is made
once, by whichever comes first; the others wait for it.  So a trial that differs in the keep ratio alone trains no
member, and one that differs in the target Gaussian alone trains the final detector and nothing else.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from llb_ray.config import RunConfig
from llb_ray.distributed.capacity import label_selector, wait_for_node
from llb_ray.distributed.ray_executor import RayExecutor
from llb_ray.engine.execution.executor import Executor, SerialExecutor, Tell
from llb_ray.engine.pipeline.pipeline import RunSpec, run_stages
from llb_ray.errors import ConfigError, LlbError
from llb_ray.search.objective import OBJECTIVES, label_free_facts
from llb_ray.search.search_plan import RUNGS, Search
from llb_ray.search.search_record import record_search
from llb_ray.search.space import Choice, Domain, Integer, LogUniform, Uniform, trial_config
from llb_ray.search.trials import Trial

_FACT = "fact_"  # before the names of label-free figures in a report
_NAME = "tune"  # Ray's own folder: its state, and TensorBoard's event files


def run_trials(plan: Search, tell: Tell, resume: bool = False) -> list[Trial]:
    """Every trial, in the order they were started; call inside `cluster.connect`.

    With `resume`, an interrupted search goes on where it was: Ray Tune remembers its trials, the store their stages.
    Raises ConfigError for a search that cannot be, ResourceError where no trial fits the cluster, and
    KeyboardInterrupt where it was stopped before any trial ended.
    """
    wait_for_node(plan.base.resources, tell)
    with _quiet(tell):
        results = _tuner(plan, tell, resume).fit()
    # Tune gives them in another order after a resume; its folders are numbered as the trials were started.
    ordered = sorted((results[index] for index in range(len(results))), key=lambda result: Path(result.path).name)
    begun = [(result, values) for result in ordered if (values := _values_of(result)) is not None]
    if not any(result.error or "reason" in (result.metrics or {}) for result, _ in begun):
        raise KeyboardInterrupt  # Tune takes a Ctrl-C for the end of the search
    return [_trial(plan, number, result, values) for number, (result, values) in enumerate(begun)]


def _tuner(plan: Search, tell: Tell, resume: bool) -> tune.Tuner:
    trainable = tune.with_resources(tune.with_parameters(_run_trial, plan=plan), _resources(plan))
    folder = plan.out / _NAME
    if resume:
        if not tune.Tuner.can_restore(str(folder)):
            raise ConfigError(f"{plan.out}: no interrupted search to resume here; leave --resume out")
        if any(folder.glob("experiment_state-*.json")):
            return tune.Tuner.restore(str(folder), trainable=trainable, resume_errored=True)
        tell("the search was stopped before its first trial; starting it again")  # Tune would restore no trials
    record_search(plan)
    return tune.Tuner(
        trainable,
        param_space=_param_space(plan),
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            num_samples=1 if plan.searcher == "grid" else plan.num_trials,
            search_alg=_searcher(plan),
            scheduler=_scheduler(plan),
            max_concurrent_trials=plan.max_concurrent,
            reuse_actors=True,  # a process takes seconds to start, as long as a small trial
        ),
        run_config=tune.RunConfig(
            name=_NAME, storage_path=str(plan.out), verbose=0, callbacks=[_Telling(plan.num_trials)]
        ),
    )


def _run_trial(values: dict[str, Any], plan: Search) -> None:
    """A whole run of these values, in the trial's process; reports its objective, after each rung if there are any."""
    for outcome in _outcomes(values, plan):
        tune.report(outcome)


def _outcomes(values: dict[str, Any], plan: Search) -> Iterator[dict[str, Any]]:
    objective = OBJECTIVES[plan.objective]
    executor: Executor = SerialExecutor() if plan.workers_per_trial == 1 else RayExecutor()
    out = plan.folder(values)
    try:
        config = trial_config(plan.base, values)
        with executor:
            for share in RUNGS if plan.early_stopping else RUNGS[-1:]:
                spec = RunSpec(_of_trial(config, share), plan.manifest, out, plan.store_of(values))
                result = run_stages(spec, executor, _silent)
                facts = {_FACT + name: value for name, value in label_free_facts(out).items()}
                counts = {"kept": result.num_kept, "rejected": result.num_rejected}
                yield {"objective": objective(out), "reason": "", "share": share, **counts, **facts}
    except LlbError as error:
        # A trial that cannot be is a finding about its values, not the end of the search.
        yield {"objective": -math.inf, "reason": str(error)}


def _silent(line: str) -> None:
    """A trial's own lines would drown the search's; `llb-ray status` of its folder shows how it is doing."""


def _of_trial(config: RunConfig, share: float) -> RunConfig:
    """With a share of the final detector's steps, and without a threshold, which no objective looks at."""
    config = config.model_copy(update={"threshold": config.threshold.model_copy(update={"method": "none"})})
    detector = config.detector if share == RUNGS[-1] else config.detector.cut_short(share)
    return config.model_copy(update={"detector": detector})


def _resources(plan: Search) -> tune.PlacementGroupFactory:
    """Resources of a trial while it runs: one worker's share, or one for each worker that it starts."""
    asked = plan.base.resources
    worker = {"CPU": float(asked.num_cpus)} | ({"GPU": asked.num_gpus} if asked.num_gpus else {})
    labels = label_selector(asked)
    more: dict[str, Any] = {} if labels is None else {"bundle_label_selector": [labels] * plan.workers_per_trial}
    if plan.workers_per_trial == 1:
        return tune.PlacementGroupFactory([worker], **more)
    waiting: dict[str, float] = {}  # the trial's own process computes nothing
    return tune.PlacementGroupFactory([waiting, *[worker] * plan.workers_per_trial], **more)


def _param_space(plan: Search) -> dict[str, Any]:
    as_grid = plan.searcher == "grid"
    return {key: _domain(domain, as_grid) for key, domain in plan.space.domains.items()}


def _domain(domain: Domain, as_grid: bool) -> Any:
    match domain:
        case Choice(values):
            return tune.grid_search(list(values)) if as_grid else tune.choice(list(values))
        case Uniform(low, high):
            return tune.uniform(low, high)
        case LogUniform(low, high):
            return tune.loguniform(low, high)
        case Integer(low, high):
            return tune.randint(low, high + 1)
    raise AssertionError(f"{domain}: a kind of domain without a Ray Tune equivalent")


def _searcher(plan: Search) -> Any:
    if plan.searcher != "optuna":
        return BasicVariantGenerator(random_state=plan.base.seed)
    try:
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(metric="objective", mode="max", seed=plan.base.seed)
    except (ImportError, AssertionError) as error:
        raise ConfigError(
            "searcher optuna: the optuna package is not installed; pip install 'llb-ray[optuna]'"
        ) from error


def _scheduler(plan: Search) -> TrialScheduler:
    if not plan.early_stopping:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(time_attr="training_iteration", max_t=len(RUNGS), grace_period=1, reduction_factor=2)


_listener: ContextVar[Tell] = ContextVar("listener", default=_silent)  # a callback is pickled, a terminal cannot be


class _Telling(tune.Callback):
    """A line for every trial that ends."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        result = trial.last_result
        self._told(trial, result.get("reason") or f"{result['objective']:.4f}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._told(trial, "its process died")

    def _told(self, trial: Any, outcome: str) -> None:
        self._done += 1
        _listener.get()(f"trial {self._done} of {self._total}: {_text(trial.config)}: {outcome}")


def _text(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def _values_of(result: Any) -> dict[str, Any] | None:
    """Values that a trial has; None where it had not begun when the search was stopped."""
    if result.config:
        return dict(result.config)
    written = Path(result.path, "params.json")  # of a trial whose process died before it reported anything
    return dict(json.loads(written.read_text())) if written.exists() else None


def _trial(plan: Search, number: int, result: Any, values: Mapping[str, Any]) -> Trial:
    metrics = result.metrics or {}
    seconds, folder = metrics.get("time_total_s", 0.0), plan.folder(values)
    reason = metrics.get("reason", "the search was stopped before it ended")
    if result.error is not None:
        reason = f"its process died: {str(result.error).strip().splitlines()[-1]}"
    if reason:
        return Trial(number, values, seconds, reason=reason, run=folder)
    facts = {name.removeprefix(_FACT): value for name, value in metrics.items() if name.startswith(_FACT)}
    counts = {name: metrics[name] for name in ("kept", "rejected")}
    reason = None if metrics["share"] == RUNGS[-1] else f"after {metrics['share']:.0%} of the final detector's steps"
    return Trial(number, values, seconds, metrics["objective"], reason, run=folder, facts=facts, **counts)


@contextlib.contextmanager
def _quiet(tell: Tell) -> Iterator[None]:
    """Ray Tune with our lines for its tables, and in our working directory, so that relative paths stay valid."""
    wanted = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    listening = _listener.set(tell)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        _listener.reset(listening)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
