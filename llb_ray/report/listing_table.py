"""Summary of a listing, for the terminal."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llb_ray.data.listing import Listing
from llb_ray.data.listing_problems import problems_file

_LABELS = {0: "normal", 1: "anomalous", None: "unlabelled"}


def show_listing(console: Console, listing: Listing, path: Path) -> None:
    """A small table of what is listed, what has to be known about it, and where the file is."""
    for note in listing.about.get("notes", ()):
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    table = Table(title="llb-ray manifest", title_justify="left", box=None, pad_edge=False, show_header=False)
    for name, count in counts(listing).items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    if listing.about.get("left_out"):
        console.print(f"what was left out  {problems_file(path)}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"manifest file      {path}", soft_wrap=True, highlight=False, markup=False)


def show_training_sets(console: Console, paths: Sequence[Path]) -> None:
    """A line for each manifest file: its images for training, how many of them are anomalous, and those for testing."""
    table = Table(box=None, pad_edge=False)
    for name in ("manifest file", "train", "anomalous", "test", "anomalous"):
        table.add_column(name, overflow="fold", justify="left" if name == "manifest file" else "right")
    for path in paths:
        found = _pairs(Listing.load(path))
        numbers = [n for split in ("train", "test") for n in (_of(found, split), found[split, 1])]
        table.add_row(path.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    console.print(f"manifest files     {paths[0].parent}", soft_wrap=True, highlight=False, markup=False)


def counts(listing: Listing) -> dict[str, int]:
    """Numbers of images, categories, objects and so on in a listing."""
    table = listing.table
    groups, pairs = table["group"], _pairs(listing)
    found = {"images": len(table), "categories": len(listing.categories)}
    for split, label in (("train", 0), ("train", 1), ("train", None), ("test", 0), ("test", 1), ("test", None)):
        found[f"{split}, {_LABELS[label]}"] = pairs[split, label]
    alone = groups.null_count
    found["objects"] = len(groups.unique()) - (alone > 0) + alone
    return {**found, "left out": listing.about.get("left_out", 0)}


def _of(pairs: Counter[tuple[str, int | None]], split: str) -> int:
    return sum(pairs[split, label] for label in _LABELS)


def _pairs(listing: Listing) -> Counter[tuple[str, int | None]]:
    return Counter(zip(listing.table["split"].to_pylist(), listing.table["label"].to_pylist(), strict=True))
