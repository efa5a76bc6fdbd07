"""Pure functions on tensors."""

from keywarp.ops.warping import resize_flow, warp

__all__ = ["resize_flow", "warp"]
