"""Copy networks, in full or with other tensors in place of some."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.errors import TraceError

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def copy_of(
    module: nn.Module, replacements: Mapping[str, Tensor] | None = None, *, shares_parameters: bool = False
) -> nn.Module:
    """Copy a network; the one given is left as it was. Networks that refuse raise TraceError.

    ``replacements`` are tensors to put in place of parameters and buffers, by any of their names; tied ones stay tied,
    and a replaced parameter trains if its predecessor did. With ``shares_parameters`` the others are not copied but are
    the given network's own, for a copy that only runs; buffers, which a run may write, always are copied.
    """
    given = replacements or {}
    memo: dict[int, Any] = {}
    for name, old in tensors(module).items():
        if name in given:
            new = given[name]
            memo[id(old)] = (
                nn.Parameter(new.detach(), requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
            )
        elif shares_parameters:
            memo.setdefault(id(old), old if isinstance(old, nn.Parameter) else old.clone())
    try:
        return _copied(module, memo)
    except Exception as error:  # copying runs the network's own code
        raise TraceError(
            f"network {type(module).__name__}", f"{type(error).__name__}: {error}",
            "a network that copy.deepcopy can copy",
            "Detach tensors that are stored as attributes, and keep files and generators out of the network.",
        ) from error  # fmt: skip


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Do what ``copy.deepcopy(module, memo)`` does, without its search through every module's empty hooks."""
    owners = list(module.modules())
    if not all(_is_plain(type(owner)) for owner in owners):
        return copy.deepcopy(module, memo)
    for owner in owners:
        memo[id(owner)] = object.__new__(type(owner))
    for owner in owners:
        vars(memo[id(owner)]).update(
            {
                key: type(value)() if key in _OF_EVERY_MODULE and _is_empty(value) else copy.deepcopy(value, memo)
                for key, value in vars(owner).items()
                if key != "_compiled_call_impl"
            }
        )
    found: nn.Module = memo[id(module)]
    return found


def _is_empty(value: Any) -> bool:
    return isinstance(value, (dict, set)) and not value


def _is_plain(kind: type[nn.Module]) -> bool:
    """Tell whether modules of a class are copied by copying their attributes."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__.__module__.startswith("torch.nn.")
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Map every name of a parameter or buffer to it; tied ones appear under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors(module).items()}
