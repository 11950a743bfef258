"""Capacity of a cluster for workers: how many its nodes hold, on which nodes, and the wait for the first."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.util import get_current_placement_group

from llb_ray.config import ResourcesConfig
from llb_ray.engine.execution.executor import Tell
from llb_ray.errors import ResourceError

Resources = Mapping[str, float]  # Ray's names: CPU, GPU


def placement(resources: ResourcesConfig) -> dict[str, Any]:
    """Ray's options for an actor or a task that is one worker."""
    options = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    labels = label_selector(resources)
    return options if labels is None else options | {"label_selector": labels}


def label_selector(resources: ResourcesConfig) -> dict[str, str] | None:
    """Labels of nodes to ask Ray for; None where any will do, or a trial's placement group has been placed by them."""
    return resources.label_selector if resources.label_selector and get_current_placement_group() is None else None


def slots(resources: ResourcesConfig) -> int:
    """Number of workers with these resources at once, also on nodes that an autoscaler has yet to add.

    Raises ResourceError when not even one fits on any node and none may be added: Ray itself would wait for ever.
    """
    most = max(living_slots(resources), _slots_to_come(resources))
    if not most:
        raise _no_capacity(resources)
    return most


def living_slots(resources: ResourcesConfig) -> int:
    """Number of workers with these resources that living nodes hold at once; in a search, the trial's own share."""
    return sum(_count(node, resources) for node in _nodes(resources))


def wait_for_node(resources: ResourcesConfig, tell: Tell) -> None:
    """Return as soon as a node can hold a worker, which an autoscaler may have to add.

    Raises ResourceError at once where `slots` does, and when none is there after `resources.autoscale_wait_s`.
    """
    if slots(resources) and living_slots(resources):
        return
    limit_s, asked = resources.autoscale_wait_s, resources.description
    tell(f"no node can hold a worker yet ({asked}); waiting up to {limit_s:g} s for the autoscaler")
    # Every kind of autoscaler looks at tasks that cannot be placed.
    task = ray.remote(max_retries=0)(_return_at_once).options(name="llb-capacity", **placement(resources)).remote()
    done, _ = ray.wait([task], timeout=limit_s)
    if not done:
        ray.cancel(task)
        raise ResourceError(
            f"no node that can hold a worker ({asked}) joined within {limit_s:g} s (resources.autoscale_wait_s); look "
            "at `ray status`, which says what the autoscaler waits for, then run the same command again"
        )


def _return_at_once() -> None:
    """Runs as soon as there is a node for it."""


def _slots_to_come(resources: ResourcesConfig) -> int:
    inside_a_trial = get_current_placement_group() is not None
    return 0 if inside_a_trial else resources.autoscale_to or 0


def _nodes(resources: ResourcesConfig) -> list[Resources]:
    """Resources of the living nodes that have the labels; in a search, of the bundles of the trial's share."""
    group = get_current_placement_group()
    if group is not None:
        return list(group.bundle_specs)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in alive if _matches(node["Labels"], resources.label_selector)]


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """True where Ray's scheduler takes the node; one that lacks the label is taken for !VALUE only."""
    return all(_accepts(wanted, labels.get(key)) for key, wanted in selector.items())


def _accepts(wanted: str, value: str | None) -> bool:
    plain = wanted.removeprefix("!")
    listed = plain[3:-1].replace(" ", "").split(",") if plain.startswith("in(") else [plain]
    return (value in listed) == (plain == wanted)


def _count(node: Resources, resources: ResourcesConfig) -> int:
    by_cpu = node.get("CPU", 0) / resources.num_cpus
    by_gpu = node.get("GPU", 0) / resources.num_gpus if resources.num_gpus else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-3)  # a third of a GPU is typed as 0.3333


def _no_capacity(resources: ResourcesConfig) -> ResourceError:
    nodes, remedy = _nodes(resources), "set resources.autoscale_to where the cluster can add nodes"
    if not nodes:
        return ResourceError(
            f"a worker asks for {resources.description}, and no node of the cluster has these labels; correct the "
            f"label_selector (`ray list nodes --detail` shows the labels), join such nodes, or {remedy}"
        )
    largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    among = f"{len(nodes)} with these labels" if resources.label_selector else f"{len(nodes)}"
    return ResourceError(
        f"a worker asks for {resources.description}, and the largest of {among} has {largest.get('CPU', 0):g} CPUs and "
        f"{largest.get('GPU', 0):g} GPUs; lower resources.num_cpus or resources.num_gpus, join nodes that have them, "
        f"or {remedy}"
    )
