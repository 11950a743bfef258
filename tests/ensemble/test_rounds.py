"""Further rounds: decisions from held-out scores alone, by id, and what they change."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.config import PurifyConfig, parse
from llb_ray.ensemble.held_out_scores import HELD_OUT
from llb_ray.ensemble.purified_dataset import PURIFIED, kept_ids
from llb_ray.ensemble.refinement import kept_in_any, num_changed, purify_again
from llb_ray.ensemble.trust import DOUBTED, TRUSTED, UNTRUSTED

COUNT = 40
IDS = [f"{number:04d}" for number in range(COUNT)]
SCORES = np.r_[np.linspace(1, 2, COUNT - 4), 9.0, 9.5, 10.0, 11.0]  # four images stand out


def _before(*rejected: str) -> pa.Table:
    """The table of an earlier round, which rejected these."""
    columns = {name: pa.nulls(COUNT, field.type) for name, field in zip(PURIFIED.names, PURIFIED, strict=True)}
    columns |= {name: pa.array([f"{name} {id_}" for id_ in IDS]) for name in ("path", "split", "group")}
    columns |= {
        "image_id": pa.array(IDS),
        "category": pa.array(["weave"] * COUNT),
        "reason": pa.array(["before"] * COUNT),
    }
    columns["decision"] = pa.array(["rejected" if id_ in rejected else "kept" for id_ in IDS])
    columns["trust"] = pa.array([0.0 if id_ in rejected else 1.0 for id_ in IDS])
    columns["member_scores"] = pa.array([[float(number)] for number in range(COUNT)], pa.list_(pa.float32()))
    return pa.table({name: columns[name] for name in PURIFIED.names}).cast(PURIFIED)


def _held_out() -> pa.Table:
    return pa.table([IDS, SCORES], schema=HELD_OUT)


def test_what_stands_out_is_rejected_and_what_does_not_comes_back() -> None:
    before = _before(IDS[0], IDS[-1])
    after = purify_again(PurifyConfig(), 2, before, _held_out())
    assert kept_ids(after) == IDS[:-4]
    assert num_changed(before, after) == (3, 1)
    assert kept_in_any([before, after]) == IDS[:-1]
    assert after["aggregate"].to_pylist() == SCORES.tolist()
    assert after["rank"].to_pylist() == list(range(1, COUNT + 1))
    assert after["member_scores"].equals(before["member_scores"])
    assert after["path"].equals(before["path"])
    assert after["reason"][0].as_py() == "round 2: the held-out score is 1, rank 1; the 36 most normal of 40 are kept"


def test_a_round_trusts_by_its_own_scores() -> None:
    after = purify_again(PurifyConfig(doubted=0.25), 2, _before(IDS[0]), _held_out())
    assert after["trust"].to_pylist() == [TRUSTED] * 27 + [DOUBTED] * 9 + [UNTRUSTED] * 4


def test_a_keep_ratio_is_kept_to() -> None:
    after = purify_again(PurifyConfig(keep_ratio=0.5), 3, _before(), _held_out())
    assert kept_ids(after) == IDS[: COUNT // 2]


def test_the_order_of_rows_means_nothing() -> None:
    order = np.random.default_rng(0).permutation(COUNT)
    expected = purify_again(PurifyConfig(), 2, _before(), _held_out())
    assert purify_again(PurifyConfig(), 2, _before().take(order[::-1]), _held_out().take(order)).equals(expected)


@pytest.mark.parametrize("detector", ["memory_bank", "autoencoder"])
@pytest.mark.parametrize(("filter_", "judged"), [("llb", 3), ("random", 1), ("none", 1)])
def test_images_are_judged_again_where_that_is_asked_for(detector: str, filter_: str, judged: int) -> None:
    tree = {"detector": {"name": detector}, "purify": {"filter": filter_}}
    assert parse(tree).rounds == 1
    assert parse({**tree, "purify": {"filter": filter_, "rounds": 3}}).rounds == judged
