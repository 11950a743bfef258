"""Files of a finished search: the table of trials, its picture, the best configuration."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from llb_ray.artifacts import Store, load
from llb_ray.disk import write_atomic
from llb_ray.search.search_plan import Search
from llb_ray.search.trials import Trial, best_config, trials_table, write_trials


def conclude(plan: Search, trials: Sequence[Trial]) -> pa.Table:
    """The table of trials, written to the search's folder with its picture and the best configuration.

    Raises ConfigError, after writing the table, if no trial finished.
    """
    from llb_ray.search.search_plot import plot_trials  # matplotlib, which those who count trials are spared

    table = trials_table(trials)
    write_trials(plan.out / "trials.parquet", table)
    best = best_config(table, plan.base)
    write_atomic(plan.out / "best.yaml", best.to_yaml().encode())
    plot_trials(table, plan.out / "trials.png", plan.objective)
    return table


def num_trained(store: Store) -> Counter[str]:
    """Number of detectors of each role, `member` and `final`, that the trials of a search trained between them."""
    fits = (store.root / "fit").glob("*/record.json")
    return Counter(load(record.parent).settings["role"] for record in fits)
