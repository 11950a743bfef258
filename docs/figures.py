"""The figures of docs/how-it-works.md, from runs of the demo's configuration.

    python docs/figures.py --out runs/figures

docs/scores.png: the score matrix and the cut.  docs/learning-bias.png: how well the member that trained on an image and
those that did not rank anomalies above normal images, for members of few steps and of many.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds
from matplotlib.colors import ListedColormap
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load, with_overrides
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.data.tables import read_table
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.score_matrix import dense

HERE = Path(__file__).parent
STEPS = (10, 30, 100, 150, 300, 1000)
NORMAL, ANOMALOUS = "#4477aa", "#ee6677"  # told apart without colour vision
Doubles = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    config = load(HERE.parent / "configs" / "autoencoder.yaml")
    separated = []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"photos-{seed}"
        if not folder.exists():
            write_synthetic(folder, SyntheticConfig(("gear",), alpha=0.2, seed=seed))
        manifest = llb_ray.read_folder(folder / "gear", config)
        separated.append([_separation(_run(config, manifest, arguments.out, seed, steps), manifest) for steps in STEPS])
    _draw_bias(np.array(separated))
    manifest = llb_ray.read_folder(arguments.out / "photos-0" / "gear", config)
    _draw_scores(arguments.out / "0-150", manifest)


def _run(config: RunConfig, manifest: Manifest, out: Path, seed: int, steps: int) -> Path:
    """The folder of a run whose members take so many steps; of its final detector nothing is asked."""
    settings = [f"seed={seed}", f"detector.member_steps={steps}", "detector.final_steps=1"]
    folder = out / f"{seed}-{steps}"
    llb_ray.run(with_overrides(config, settings), manifest, out=folder, executor="serial", store=out / f"store-{seed}")
    return folder


def _ranks(folder: Path) -> tuple[list[str], Doubles, npt.NDArray[np.bool_]]:
    """Ids, the members' ranks of each image from 0 to 1 [N, K], and which of them trained on it [N, K]."""
    matrix = dense(read_table(folder / "scores.arrow"))
    rank_NK = rankdata(matrix.score_NK, axis=0) / len(matrix.score_NK)
    return list(matrix.image_ids), rank_NK, matrix.in_fold_NK


def _labels(manifest: Manifest, image_ids: Sequence[str]) -> npt.NDArray[np.int_]:
    rows = manifest.table.to_pylist()
    label = {row["image_id"]: row["label"] for row in rows}
    return np.array([label[image_id] for image_id in image_ids])


def _separation(folder: Path, manifest: Manifest) -> tuple[float, float]:
    """AUROC of anomalies against normal images: by the member that trained on an image, by the mean of the others."""
    image_ids, rank_NK, in_fold_NK = _ranks(folder)
    label_N = _labels(manifest, image_ids)
    own_N = np.where(in_fold_NK, rank_NK, 0).sum(axis=1)
    others_N = np.where(in_fold_NK, 0, rank_NK).sum(axis=1)
    return roc_auc_score(label_N, own_N), roc_auc_score(label_N, others_N)


def _draw_bias(separated_SLW: Doubles) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for which, name, colour in ((1, "members that did not train on it", NORMAL), (0, "the one that did", ANOMALOUS)):
        axes.plot(STEPS, separated_SLW[:, :, which].mean(axis=0), "o-", color=colour, label=name)
        axes.fill_between(
            STEPS,
            separated_SLW[:, :, which].min(axis=0),
            separated_SLW[:, :, which].max(axis=0),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axes.minorticks_off()
    axes.set_xlabel("steps of training of each member")
    axes.set_ylabel("anomalies ranked above\nnormal images (AUROC)")
    figure.legend(title="image judged by", frameon=False, loc="outside upper center", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "learning-bias.png", dpi=100)


def _draw_scores(folder: Path, manifest: Manifest) -> None:
    image_ids, rank_NK, in_fold_NK = _ranks(folder)
    purified = ds.dataset(folder / "purified", format="arrow").to_table().to_pylist()
    mean = {row["image_id"]: row["aggregate"] for row in purified}
    mean_N, label_N = np.array([mean[image_id] for image_id in image_ids]), _labels(manifest, image_ids)
    cut = max(row["aggregate"] for row in purified if row["decision"] == KEPT)
    figure, (left, truth, right) = plt.subplots(1, 3, figsize=(8, 3.4), width_ratios=(3, 0.25, 4), layout="constrained")
    order_N = np.argsort(mean_N)
    shown_NK = np.ma.masked_array(rank_NK, in_fold_NK)[order_N]
    colours = plt.colormaps["inferno"].with_extremes(bad="0.75")
    left.imshow(shown_NK, aspect="auto", cmap=colours, interpolation="nearest")
    left.axhline(np.searchsorted(mean_N[order_N], cut, side="right") - 0.5, color="white", linewidth=1.5)
    left.set(xlabel="member", ylabel="image, by its mean", xticks=range(rank_NK.shape[1]), yticks=[])
    truth.imshow(
        label_N[order_N, None], aspect="auto", cmap=ListedColormap([NORMAL, ANOMALOUS]), interpolation="nearest"
    )
    truth.set(xlabel="truth", xticks=[], yticks=[])
    bins = np.linspace(mean_N.min(), mean_N.max(), 40)
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        right.hist(mean_N[label_N == label], bins=bins, color=colour, alpha=0.75, label=name)
    right.axvline(cut, color="black", linewidth=1.5)
    right.text(cut, right.get_ylim()[1], " rejected", va="top")
    right.set(xlabel="mean of the members that did not train on it", ylabel="images")
    right.legend(frameon=False, loc="upper left")
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "scores.png", dpi=100)


if __name__ == "__main__":
    main()
