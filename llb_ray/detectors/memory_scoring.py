"""Scores and maps of a memory bank as functions of its state, for single images and for exports.

Shapes: as in `memory_bank`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from llb_ray.detectors.base import Layers, State
from llb_ray.detectors.context import context_distances, interpolate_to
from llb_ray.detectors.inspected import interpolate_seen, seen_cells, split_share, zero_unseen
from llb_ray.detectors.memory_bank_config import MemoryBankConfig
from llb_ray.detectors.patches import detailed_patches, on_one_grid, patches, relative_distance, standardize
from llb_ray.detectors.place_gaussians import place_distances, pool_places, unpool_places
from llb_ray.detectors.tiles import WorstTile

KERNEL = "kernel_"  # and the number of a layer: the name of its filter in the state
_ROUNDING = 0.01  # usual distances are near 1; a root would magnify the rounding of those of remembered patches
_CHUNK_CELLS = 1024  # cells compared with the memory at once: 16 MB of distances at 4,000 entries
Named = Mapping[str, torch.Tensor]  # a state, or the buffers of an exported one


class MemoryScorer(nn.Module):
    """Scores and maps of `score_images` with the state in buffers, the same within float noise."""

    def __init__(self, config: MemoryBankConfig, score: WorstTile, state: State) -> None:
        super().__init__()
        self._config, self._score = config, score
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score [B] and map [B, H, W]."""
        return score_images(layers, self._config, self._score, dict(self.named_buffers()), chunked=False)


def score_images(
    layers: Layers, config: MemoryBankConfig, score: WorstTile, state: Named, chunked: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score [B] and map [B, H, W], by the cells that are looked at; `chunked` bounds memory."""
    layers, share_B1HW = split_share(layers, state)
    patch_BDHW = standardize(remembered(layers, config, state), state["mean_D"], state["scale_D"])
    patch_QD = patch_BDHW.permute(0, 2, 3, 1).flatten(0, 2)
    parts = torch.split(patch_QD, _CHUNK_CELLS) if chunked else [patch_QD]
    near_BHW = torch.cat([_nearest(part_QD, config, state) for part_QD in parts]).view(-1, *patch_BDHW.shape[2:])
    decisive_BHW, map_BHW = _combine(near_BHW, layers, share_B1HW, config, state)
    seen_BHW = seen_cells(share_B1HW, near_BHW.shape[1:])
    return score(decisive_BHW, seen_BHW), zero_unseen(map_BHW, seen_BHW)


def shallow(layers: Layers, config: MemoryBankConfig) -> Layers:
    """The layers that patches are made of, without a deeper one for the context."""
    return layers[: config.backbone.num_layers]


def remembered(layers: Layers, config: MemoryBankConfig, state: Named) -> torch.Tensor:
    """Patches [B, D, H, W] as the memory has them; averaged ones where the state has no kernels."""
    kernels = kernels_of(state)
    shared = shallow(layers, config)
    return detailed_patches(shared, kernels) if kernels else patches(shared, config.neighbourhood)


def cells(layers: Layers, config: MemoryBankConfig) -> torch.Tensor:
    """Cells as they are [B, E, H, W], on the first layer's grid."""
    return on_one_grid(shallow(layers, config))


def deep_cells(layers: Layers, config: MemoryBankConfig) -> torch.Tensor | None:
    """Cells [B, C, h, w] of a deeper layer for the context; None without one.

    As they are: 3 x 3 of 7 x 7 would be an average of the better part of the image.
    """
    deep = layers[config.backbone.num_layers :]
    return deep[0] if deep else None


def kernels_of(state: Named) -> Sequence[torch.Tensor]:
    """The filters of detailed patches, by layer; none of averaged ones."""
    return [state[f"{KERNEL}{layer}"] for layer in range(sum(name.startswith(KERNEL) for name in state))]


def at_places(cell_BEHW: torch.Tensor, state: Named) -> torch.Tensor:
    """Standardised cells [B, E, h, w] at their places."""
    return standardize(pool_places(cell_BEHW), state["cell_mean_E"], state["cell_scale_E"])


def shown_places(seen_BHW: torch.Tensor | None) -> torch.Tensor | None:
    """The share of each place that is looked at [B, h, w]; None: all of all."""
    return None if seen_BHW is None else pool_places(seen_BHW[:, None].float())[:, 0]


def _nearest(patch_QD: torch.Tensor, config: MemoryBankConfig, state: Named) -> torch.Tensor:
    """Distance [Q] of standardised patches to the memory, per root of D."""
    # Not float16, in which squares of patches would overflow.
    search = torch.float32 if config.backbone.precision == "float32" else torch.bfloat16
    return relative_distance(patch_QD, state["memory_MD"], state.get("reach_M"), state.get("weight_M"), search)


def _combine(
    near_BHW: torch.Tensor, layers: Layers, share_B1HW: torch.Tensor | None, config: MemoryBankConfig, state: Named
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps that scores are made of, and those to show, [B, H, W] each, from the distances to the memory, as far as
    places and context were learnt."""
    if "place_mean_Ld" not in state:
        return near_BHW, near_BHW
    grid = near_BHW.shape[1:]
    placed_Bhw = place_distances(at_places(cells(layers, config), state), state)
    shown_Bhw = shown_places(seen_cells(share_B1HW, grid))
    placed_BHW, _ = interpolate_seen(placed_Bhw, shown_Bhw, lambda value_Bhw: unpool_places(value_Bhw, *grid))
    near_BHW = near_BHW.clamp(min=_ROUNDING)
    map_BHW = (near_BHW * placed_BHW).sqrt()
    if (deep_BChw := deep_cells(layers, config)) is None:
        return map_BHW, map_BHW
    context_BHW, known_BHW = _context(deep_BChw, share_B1HW, state, grid)
    decisive_BHW = (near_BHW * placed_BHW * context_BHW.clamp(min=_ROUNDING)).pow(1 / 3)
    # No deep cell that is looked at is near: the other two decide.
    return decisive_BHW if known_BHW is None else torch.where(known_BHW, decisive_BHW, map_BHW), map_BHW


def _context(
    deep_BChw: torch.Tensor, share_B1HW: torch.Tensor | None, state: Named, grid: torch.Size
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Distances of the context on the map's grid [B, H, W], by the deep cells that are looked at, and True where such
    are near; None: everywhere."""
    seen_Bhw = seen_cells(share_B1HW, deep_BChw.shape[2:])
    weight_Bhw = None if seen_Bhw is None else seen_Bhw.float()
    return interpolate_seen(
        context_distances(deep_BChw, state), weight_Bhw, lambda value_Bhw: interpolate_to(value_Bhw, grid)
    )
