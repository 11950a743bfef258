"""Resizing inside an exported model, in the way of Pillow: bicubic with antialias, the aspect ratio not kept.

It is two products of matrices, which every runtime has: the Resize of ONNX with antialias is wrong or missing in some.

Shapes: B images, H x W pixels of a photograph, h x w of the detector.
"""

import torch
from torch import nn

from llb_ray.config import Size

_SHARPNESS = -0.5  # of the bicubic filter, in Pillow


class Resize(nn.Module):
    """8-bit images of any size [B, H, W, C] as the detector takes them [B, h, w, C], within one level of Pillow's.

    Each axis is rounded to 8 bits, the horizontal one first.  Some versions of Pillow begin with the other axis where
    that is cheaper; the difference is larger only where black or white pixels overshoot.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self._height, self._width = size

    def forward(self, image_BHWC: torch.Tensor) -> torch.Tensor:
        plane_BCHW = image_BHWC.permute(0, 3, 1, 2).float()
        across_wW = _weights(image_BHWC.shape[2], self._width, image_BHWC.device)
        down_hH = _weights(image_BHWC.shape[1], self._height, image_BHWC.device)
        small_BChw = _rounded(down_hH @ _rounded(plane_BCHW @ across_wW.T))
        return small_BChw.to(torch.uint8).permute(0, 2, 3, 1)


def _weights(before: int, after: int, device: torch.device) -> torch.Tensor:
    """The share of each pixel of a line [before] in each pixel of the resized line: [after, before]."""
    at_P = torch.arange(before, device=device).double() + 0.5
    scale_1 = (at_P[-1:] + 0.5) / after  # a tensor: the length of a line is known only when the model runs
    centre_Q = (torch.arange(after, device=device).double() + 0.5) * scale_1
    share_QP = _bicubic((at_P - centre_Q[:, None]) / scale_1.clamp(min=1))
    return (share_QP / share_QP.sum(dim=1, keepdim=True)).float()


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    x, a = distance.abs(), _SHARPNESS
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _rounded(value: torch.Tensor) -> torch.Tensor:
    """Of 8 bits; halves are rounded up, as Pillow does."""
    return (value + 0.5).floor().clamp(0, 255)
