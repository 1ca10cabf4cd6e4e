"""Where tensors and modules belong."""


def covers(paths: tuple[str, ...], name: str) -> bool:
    """Tell whether a tensor or module is one of these modules, or belongs to one."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)
