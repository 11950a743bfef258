"""The page of a drift comparison: one self-contained file, as the report is."""

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from llb_ray.engine.drift.feature_shift import FEWEST
from llb_ray.engine.drift.watch import Drift
from llb_ray.report.charts import Chart, Floats, Line, curves
from llb_ray.report.templates import digest_of, resource, template


def drift_page(drift: Drift) -> str:
    """The page as text."""
    style = resource("report.css")
    page = template("drift.html.jinja")
    drawn = {"charts": list(_charts(drift)), "style": Markup(style), "style_digest": digest_of(style)}
    return page.render(drift=drift, fewest=FEWEST, **drawn)


def _charts(drift: Drift) -> Iterator[Chart]:
    new_N = np.concatenate([lot.score_N for lot in drift.lots.values()])
    both = [_distribution("reference", drift.reference.score_M), _distribution("new images", new_N)]
    yield curves("Scores of all lots together", "score", "share of images that score lower", both)
    if len(drift.watched) > 1:
        yield _by_lot(drift, "Above the threshold, with the 95 % interval", "share", _shares(drift))
        yield _by_lot(drift, "Scores: 5 % quantile, median, 95 % quantile", "score", _quantiles(drift))
        if moved := _moved(drift):
            yield _by_lot(drift, "Shift of the mean features, and the limit of the alarm", "distance", moved)


def _distribution(kind: str, score_N: Floats) -> Line:
    return Line(kind, np.sort(score_N), np.arange(1, len(score_N) + 1) / len(score_N))


def _by_lot(drift: Drift, title: str, of_what: str, columns: dict[str, list[float]]) -> Chart:
    number_N: Floats = np.arange(1, len(drift.watched) + 1, dtype=float)
    return curves(title, "lot", of_what, [Line(kind, number_N, np.array(some)) for kind, some in columns.items()])


def _moved(drift: Drift) -> dict[str, list[float]]:
    """Distance and limit by lot; nothing where a lot has none."""
    found = [lot.feature_shift for lot in drift.watched if lot.feature_shift is not None]
    if len(found) < len(drift.watched):
        return {}
    return {"distance": [one.distance for one in found], "limit": [one.limit for one in found]}


def _shares(drift: Drift) -> dict[str, list[float]]:
    intervals = [lot.share_interval for lot in drift.watched]
    middle = [lot.share for lot in drift.watched]
    return {"low": [low for low, _ in intervals], "share": middle, "high": [high for _, high in intervals]}


def _quantiles(drift: Drift) -> dict[str, list[float]]:
    names = ("low", "median", "high")
    return {name: [lot.quantiles[place] for lot in drift.watched] for place, name in enumerate(names)}
