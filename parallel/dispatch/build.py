"""The dispatcher that a mesh calls for."""

from __future__ import annotations

from ..mesh import Mesh
from .all_to_all import AllToAllDispatcher
from .base import Dispatcher
from .expert_tensor import ExpertTensorDispatcher
from .local import LocalDispatcher


def build(mesh: Mesh, num_experts: int) -> Dispatcher:
    """One for all layers of a model with `num_experts` experts a layer."""
    dispatcher: Dispatcher = LocalDispatcher()
    if mesh.ep.size > 1:
        dispatcher = AllToAllDispatcher(mesh.ep, num_experts, mesh.device)
    if mesh.etp.size > 1:
        dispatcher = ExpertTensorDispatcher(dispatcher, mesh.etp)
    return dispatcher
