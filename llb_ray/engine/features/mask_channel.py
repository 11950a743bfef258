"""The channel of an image that says what is ignored, in a run with a mask for each photograph."""

import torch

from llb_ray.data.ignored_regions import GREY, Ignored
from llb_ray.data.image_masks import IgnoredPixels


def split_mask(image_BHWC: torch.Tensor, ignored: IgnoredPixels) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in one grey where they are ignored [B, H, W, C], and these pixels [B, H, W]: the same of all, or those
    that the images' last channel says."""
    if isinstance(ignored, Ignored):
        ignored_BHW = torch.from_numpy(ignored.mask_HW).expand(image_BHWC.shape[0], -1, -1)
    else:
        ignored_BHW, image_BHWC = image_BHWC[..., -1] > 0, image_BHWC[..., :-1]
    return torch.where(ignored_BHW[..., None], torch.full_like(image_BHWC, GREY), image_BHWC), ignored_BHW
