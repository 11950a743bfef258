"""Weights read from a file: tensors by name, never unpickled objects."""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # the name of an error of torch.load; nothing is unpickled here
from typing import Any

import safetensors
import safetensors.torch
import torch

from llb_ray.detectors.base import State
from llb_ray.detectors.weight_packages import REMEDY, SETTING
from llb_ray.errors import WeightsError

_PREFIXES = "module.", "_orig_mod.", "model.", "backbone."  # of wrappers of torch and Lightning
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*m")
_FOREIGN = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")


def read_weights(path: Path, wanted: Mapping[str, torch.Tensor]) -> State:
    """The tensors by name in a .safetensors or .pth file, on the CPU, out of what a training script wrapped them in.

    Those are taken that have every tensor of `wanted`, below a prefix (``module.``, ``backbone.``) or a name
    (``model_state_dict``, ``teacher``), if only one group does.  Where none does they are as the file has them.
    Raises WeightsError naming the file.
    """
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _load_zip(path)
    except (OSError, RuntimeError, UnpicklingError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{SETTING} = {path}: cannot be read ({_reason(error)}); {REMEDY}") from error
    groups = dict(_groups(content))
    if not groups:
        raise WeightsError(f"{SETTING} = {path}: the file holds no tensors by name; {REMEDY}")
    fitting = dict(_fitting(groups, wanted))
    if len(fitting) > 1:
        names = ", ".join(name or "the file itself" for name in fitting)
        raise WeightsError(
            f"{SETTING} = {path}: holds several sets of weights that fit ({names}); save the one that is meant alone"
        )
    return next(iter(fitting.values())) if fitting else _plain(max(groups.values(), key=len))


def _reason(error: Exception) -> str:
    """The loader's words without terminal codes, and without its advice to trust the file."""
    words = _TERMINAL_CODE.sub("", str(error))
    if found := _FOREIGN.search(words):
        return f"it holds {found[1]} besides tensors, and loading that could run code; save model.state_dict() alone"
    return words.split("\n")[0]


def _groups(content: Any, name: str = "") -> Iterator[tuple[str, State]]:
    """Every group of tensors by name in the file, and where: a checkpoint is one, or holds some."""
    if not isinstance(content, dict):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors:
        yield name, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _groups(value, f"{name}.{key}" if name else key)


def _plain(state: State) -> State:
    """The tensors without a prefix that all of them have."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _fitting(groups: Mapping[str, State], wanted: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, State]]:
    """The groups, or parts of them below a prefix, that have every wanted tensor, in its shape."""
    first = next(iter(wanted))
    for name, state in groups.items():
        for prefix in [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]:
            part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
            if all(key in part and part[key].shape == tensor.shape for key, tensor in wanted.items()):
                yield f"{name}.{prefix}".strip("."), part


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
    """True if the file begins with the length of a JSON object, and the object."""
    with path.open("rb") as file:
        return len(file.read(8)) == 8 and file.read(1) == b"{"


def _is_torch_zip(path: Path) -> bool:
    """True if it is a zip with the pickle of torch.save, which NumPy's .npz is not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())


def _load_zip(path: Path) -> Any:
    # The older format is refused: `weights_only` did not hold there (CVE-2025-32434), nor are its errors of any kind.
    if not _is_torch_zip(path):
        raise UnpicklingError("neither .safetensors nor written by torch.save of version 1.6 or later")
    return torch.load(path, map_location="cpu", weights_only=True)


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
