"""One suite over every filter: what `ensemble.filters.base` promises, whoever decides."""

from typing import Any

import numpy as np
import pytest

from llb_ray.config import PurifyConfig, parse
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import DECISIONS, Decided, Evidence, filter_of
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError
from llb_ray.extensions import FILTERS

COUNT, MEMBERS, ANOMALOUS = 60, 4, 6
IDS = [f"{number * 7919 % 10_007:05d}" for number in range(COUNT)]
LABELS = {image_id: int(row < ANOMALOUS) for row, image_id in enumerate(IDS)}
RATIOS: list[float | str] = ["auto", 0.75]
filters = pytest.mark.parametrize("name", FILTERS.names())
ratios = pytest.mark.parametrize("ratio", RATIOS)


def _matrix(rows: Any = slice(None), seed: int = 0) -> ScoreMatrix:
    """Scores of the images of these rows, the first ones anomalous and some of them found."""
    rng = np.random.default_rng(seed)
    score_NK = rng.gamma(4, size=(COUNT, MEMBERS))
    score_NK[: ANOMALOUS // 2] += 60
    in_fold_NK = (np.arange(COUNT) % MEMBERS)[:, None] == np.arange(MEMBERS)
    return ScoreMatrix(list(np.array(IDS)[rows]), range(MEMBERS), score_NK[rows], in_fold_NK[rows])


def _settings(name: str, ratio: float | str = "auto") -> PurifyConfig:
    return PurifyConfig.model_validate({"filter": name, "keep_ratio": ratio})


def _decide(name: str, ratio: float | str = "auto", seed: int = 0, rows: Any = slice(None)) -> Decided:
    """What the filter decides on the evidence that it asks for, and on no other."""
    rule = filter_of(_settings(name, ratio))
    matrix = _matrix(rows) if rule.reads_scores else None
    labels = LABELS if rule.reads_labels else None
    return rule.decide(Evidence(list(np.array(IDS)[rows]), seed, matrix, labels))


def test_tables_list_filters_from_none_to_the_best_that_one_may_hope_for() -> None:
    place = {name: filter_of(_settings(name)).place for name in FILTERS.names()}
    others = {place[name] for name in ("softpatch", "memory_ensemble", "srr")}
    assert place["none"] < place["random"] < min(others)
    assert max(others) < place["llb"] < place["oracle"]


@ratios
@filters
def test_every_image_is_decided_about_once_and_with_a_reason(name: str, ratio: float | str) -> None:
    table = _decide(name, ratio).table
    assert table.schema.equals(DECISIONS)
    assert sorted(table["image_id"].to_pylist()) == sorted(IDS)
    assert set(table["decision"].to_pylist()) <= {KEPT, REJECTED}
    assert all(table["reason"].to_pylist())
    assert KEPT in table["decision"].to_pylist()


@ratios
@filters
def test_the_order_of_the_evidence_does_not_matter(name: str, ratio: float | str) -> None:
    order = np.random.default_rng(3).permutation(COUNT)
    one, other = _decide(name, ratio), _decide(name, ratio, rows=order)
    ranked, again = (found.table.sort_by("image_id").to_pydict() for found in (one, other))
    numbers, same = ranked.pop("aggregate"), again.pop("aggregate")
    assert [row is None for row in numbers] == [row is None for row in same]
    assert [row for row in numbers if row is not None] == pytest.approx([row for row in same if row is not None])
    assert ranked == again
    if one.anomaly_N is not None and other.anomaly_N is not None:
        assert np.sort(one.anomaly_N) == pytest.approx(np.sort(other.anomaly_N))


@ratios
@filters
def test_a_filter_is_a_function_of_evidence_and_seed(name: str, ratio: float | str) -> None:
    assert _decide(name, ratio, seed=5).table.equals(_decide(name, ratio, seed=5).table)


@filters
def test_only_a_filter_that_says_so_reads_labels(name: str) -> None:
    rule = filter_of(_settings(name))
    assert rule.reads_labels == (rule.bound == "upper"), "labels are known to the upper bound alone"
    evidence = Evidence(IDS, 0, _matrix())
    if rule.reads_labels:
        with pytest.raises(DataError, match="labels"):
            rule.decide(evidence)
    else:
        turned = {image_id: 1 - label for image_id, label in LABELS.items()}
        known = [rule.decide(Evidence(IDS, 0, _matrix(), labels)).table for labels in (None, LABELS, turned)]
        assert known[0].equals(known[1])
        assert known[0].equals(known[2])


@ratios
@filters
def test_only_a_filter_that_says_so_reads_scores(name: str, ratio: float | str) -> None:
    rule = filter_of(_settings(name, ratio))
    labels = LABELS if rule.reads_labels else None
    if rule.reads_scores:
        with pytest.raises(DataError, match="not the same set"):
            rule.decide(Evidence(IDS, 0, None, labels))
        with pytest.raises(DataError, match="not the same set"):
            rule.decide(Evidence([*IDS, "another"], 0, _matrix(), labels))
    else:
        other = rule.decide(Evidence(IDS, 0, _matrix(seed=1), labels)).table
        assert rule.decide(Evidence(IDS, 0, None, labels)).table.equals(other)


@filters
def test_the_keep_ratio_counts_where_a_filter_says_so(name: str) -> None:
    kept = [_decide(name, ratio).table["decision"].to_pylist().count(KEPT) for ratio in (0.5, 0.75)]
    uses = filter_of(_settings(name)).uses_keep_ratio
    assert kept == [COUNT // 2, COUNT * 3 // 4] if uses else kept[0] == kept[1]


@filters
def test_the_share_of_anomalies_is_estimated_from_a_number_for_each_image_or_not_at_all(name: str) -> None:
    given, estimated = _decide(name, 0.75), _decide(name)
    assert given.anomaly_N is None
    if estimated.anomaly_N is not None:
        assert estimated.anomaly_N.shape == (COUNT,)
        assert np.isfinite(estimated.anomaly_N).all()


@filters
def test_members_are_trained_on_images_of_the_shares_alone(name: str) -> None:
    shares = [IDS[member::MEMBERS] for member in range(MEMBERS)]
    given = filter_of(_settings(name)).training_sets(shares)
    assert len(given) == MEMBERS
    assert {image_id for images in given for image_id in images} == set(IDS)
    assert all(set(share) <= set(images) for share, images in zip(shares, given, strict=True))


@filters
def test_settings_without_effect_are_named(name: str) -> None:
    changed = {
        "keep_ratio": 0.5,
        "aggregate": "median",
        "members": "all",
        "normalize": "none",
        "rounds": 2,
        "trim": 0.3,
        "memories": 7,
        "doubted": 0.2,
    }
    settings = PurifyConfig.model_validate({"filter": name, **changed})
    in_use = filter_of(settings).settings_in_use
    assert in_use <= set(changed)
    named = {notice.split()[0].removeprefix("purify.") for notice in settings.notices()}
    assert named == set(changed) - in_use


@filters
def test_what_the_report_says_ends_no_sentence(name: str) -> None:
    rule = filter_of(_settings(name))
    texts = (rule.value_name, rule.summary(7, "5 members, memory bank"))
    assert all(text and not text.endswith(".") for text in texts)
    assert "7" in texts[1]


@filters
def test_a_run_with_it_has_detectors_and_as_many_members_as_it_wants(name: str) -> None:
    config = parse({"purify": {"filter": name, "memories": 7}, "members": {"count": 3}})
    rule = filter_of(config.purify)
    assert config.num_members == rule.num_members(3) >= 2
    assert config.rounds == rule.rounds >= 1
    for role in ("member", "final"):
        assert config.detector_of(role).image_size_px == config.detector.image_size_px  # type: ignore[arg-type]
