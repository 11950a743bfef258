"""Weights read from a file: tensors by name, never unpickled objects."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # the name of an error of torch.load; nothing is unpickled here
from typing import Any

import safetensors
import safetensors.torch
import torch

from llb_ray.detectors.base import State
from llb_ray.detectors.packages import REMEDY, SETTING
from llb_ray.errors import WeightsError


def read_weights(path: Path) -> State:
    """The tensors in a .safetensors or .pth file by name, on the CPU; raises WeightsError naming the file."""
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _load_zip(path)
    except (OSError, RuntimeError, UnpicklingError, safetensors.SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{SETTING} = {path}: cannot be read ({reason}); {REMEDY}") from error
    return _unwrapped(content, path)


def refuse_other_files(path: Path, option: str) -> None:
    """Raise WeightsError, naming the `option` that the file was given as, unless it is of a kind that is read here.

    Only its first bytes and its table of contents are looked at.
    """
    if not path.is_file():
        raise WeightsError(f"{option} {path}: no such file; give a .safetensors or .pth file")
    if not _is_safetensors(path) and not _is_torch_zip(path):
        raise WeightsError(
            f"{option} {path}: not a file of weights, neither .safetensors nor written by torch.save of version 1.6 "
            "or later; give a .safetensors or .pth file"
        )


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a JSON object, and the object."""
    with path.open("rb") as file:
        return len(file.read(8)) == 8 and file.read(1) == b"{"


def _is_torch_zip(path: Path) -> bool:
    """Whether it is a zip with the pickle of torch.save, which NumPy's .npz is not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())


def _load_zip(path: Path) -> Any:
    # The older format is refused: `weights_only` did not hold there (CVE-2025-32434), nor are its errors of any kind.
    if not _is_torch_zip(path):
        raise UnpicklingError("neither .safetensors nor written by torch.save of version 1.6 or later")
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(content: Any, path: Path) -> State:
    """The tensors, out of the wrapper that training scripts save them in."""
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightsError(f"{SETTING} = {path}: the file holds no tensors by name; {REMEDY}")
    return content


def without_head(state: State, heads: str | Sequence[str]) -> State:
    """`state` less the classifiers named `heads`, which published files have and a backbone has not."""
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def differences(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """One phrase for each way in which the keys differ, with their number and the first; empty if all fit."""
    kinds = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [name for name in wanted if name in found and wanted[name].shape != found[name].shape],
    }
    return [f"{len(names)} keys {kind} (first {names[0]!r})" for kind, names in kinds.items() if names]
