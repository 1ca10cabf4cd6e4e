"""The smallest width that a group may be cut to."""

from secateur.artifacts import Group


def floor_width(group: Group, floor: int) -> int:
    """Return the smallest width of a group that is allowed: at least its floor and its least, on its step or uncut."""
    wanted = max(floor, group.least)
    return min(group.num_channels, -(-wanted // group.multiple) * group.multiple)
