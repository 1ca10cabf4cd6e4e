from secateur.pipeline.allocation.hierarchical import allocate, floor_cost, require_reachable

__all__ = ["allocate", "floor_cost", "require_reachable"]
