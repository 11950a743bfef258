"""Record of a search's arguments, so that it is resumed with these and with no others.

Trials that were finished before the stop keep their objective and are compared with those that come after it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llb_ray.artifacts import digest
from llb_ray.data.ignored_regions import MaskPaths
from llb_ray.disk import write_json
from llb_ray.errors import ConfigError
from llb_ray.search.search_plan import Search

FORMAT = "1"
_NAME, _SHOWN = "search.json", 3


def record_search(plan: Search) -> None:
    """Write what the search is to its folder, as search.json."""
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(_path(plan), _facts(plan))


def refuse_another(plan: Search) -> None:
    """Raise ConfigError, naming what differs, unless the search in the folder was started with the same.

    Resources, workers per trial and trials at a time may differ: no objective depends on them.
    """
    nothing = f"{plan.out}: no interrupted search to resume here; leave --resume out"
    try:
        earlier = dict(json.loads(_path(plan).read_text()))
    except FileNotFoundError as error:
        raise ConfigError(nothing) from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{_path(plan)}: damaged; leave --resume out, what the trials made is reused") from error
    facts = _facts(plan)
    differing = [name for name in dict.fromkeys((*earlier, *facts)) if earlier.get(name) != facts.get(name)]
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        told = ", ".join(f"{name} was {earlier.get(name)!r}, is {facts.get(name)!r}" for name in differing[:_SHOWN])
        raise ConfigError(
            f"{plan.out}: the search to resume had other settings: {told}{more}; give the "
            "same again, or leave --resume out to start another search, which reuses what the trials made"
        )


def _path(plan: Search) -> Path:
    return plan.out / _NAME


def _facts(plan: Search) -> dict[str, str]:
    """All that objectives depend on, by dotted name, as text: it is only ever compared and shown."""
    told: dict[str, Any] = {
        "objective": plan.objective,
        "searcher": plan.searcher,
        "trials": plan.num_trials,
        "early_stopping": plan.early_stopping,
        "images": digest(sorted(plan.manifest.table["image_id"].to_pylist())),
    }
    if masks := MaskPaths.of_settings(plan.base.data).key:
        told["masks"] = masks
    told |= {f"space.{key}": domain for key, domain in plan.space.domains.items()}
    told |= dict(_leaves(plan.base.keyed_settings()))
    return {"format": FORMAT} | {name: str(value) for name, value in told.items()}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
