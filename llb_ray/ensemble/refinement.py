"""Further rounds: every image is judged again, by detectors like the final one that had not seen it.

Sub-models that are trained on a contaminated share each are the first judges, not the best ones: they are small, know a
fifth of the images, and what they miss stays in.  So detectors of the final kind are fitted on what the round before
kept, each without a fold of the images, and score the fold that they did not see, rejected images included: these can
come back.  The method's authors screen once (arXiv 2508.07441); screening and training by turns is SRR's idea (arXiv
2106.06115).

Shapes: N training images.
"""

import pyarrow as pa

from llb_ray.config import PurifyConfig
from llb_ray.data.tables import join_by_image
from llb_ray.ensemble.categories import comparable_scores
from llb_ray.ensemble.purified_dataset import PURIFIED, kept_ids
from llb_ray.ensemble.purify import cut, selection
from llb_ray.ensemble.trust import trust


def purify_again(config: PurifyConfig, number: int, before: pa.Table, held_out: pa.Table) -> pa.Table:
    """Decisions of round `number` on every training image (schema `PURIFIED`, in image_id order).

    `before` is an earlier round's table, of which the images and the members' scores are taken and no decision;
    `held_out` has a score of every image (schema `held_out_scores.HELD_OUT`).  With ``keep_ratio=auto`` it keeps what
    does not stand out of these, on one scale for all categories.
    """
    held_out = comparable_scores(held_out, before).sort_by("image_id")
    score_N = held_out["score"].to_numpy()
    keep_ratio, doubted = selection(config, score_N)
    decided = cut(held_out["image_id"].to_pylist(), score_N, keep_ratio, f"round {number}: the held-out score")
    decided = decided.append_column("trust", pa.array(trust(decided, doubted)))
    rows = join_by_image(before.sort_by("image_id").drop_columns(decided.column_names[1:]), decided)
    return rows.select(PURIFIED.names).cast(PURIFIED)


def kept_in_any(rounds: list[pa.Table]) -> list[str]:
    """The images that at least one round kept, in image_id order."""
    return sorted({image_id for decided in rounds for image_id in kept_ids(decided)})


def num_changed(before: pa.Table, after: pa.Table) -> tuple[int, int]:
    """Numbers of images that a round rejected and the one before had kept, and the reverse."""
    kept = [set(kept_ids(decided)) for decided in (before, after)]
    return len(kept[0] - kept[1]), len(kept[1] - kept[0])
