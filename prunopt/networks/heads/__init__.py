"""Attention heads: gates, importance, selections by loss, and removal for good."""

import prunopt.networks.require_torch  # noqa: F401
from prunopt.networks.heads.gates import HeadGates as HeadGates
from prunopt.networks.heads.gates import head_gates as head_gates
from prunopt.networks.heads.head_loss import HeadLoss as HeadLoss
from prunopt.networks.heads.importance import head_importance as head_importance
from prunopt.networks.heads.layers import head_layers as head_layers
from prunopt.networks.heads.losses import Batch as Batch
from prunopt.networks.heads.losses import contrastive_loss as contrastive_loss
from prunopt.networks.heads.losses import embedding_batches as embedding_batches
from prunopt.networks.heads.losses import embedding_loss as embedding_loss
from prunopt.networks.heads.losses import label_loss as label_loss
from prunopt.networks.heads.losses import next_token_loss as next_token_loss
from prunopt.networks.heads.surgery import attention_parameters as attention_parameters
from prunopt.networks.heads.surgery import export_onnx as export_onnx
from prunopt.networks.heads.surgery import prune_heads as prune_heads
from prunopt.networks.heads.surgery import remove_heads as remove_heads

__all__ = [
    "Batch",
    "HeadGates",
    "HeadLoss",
    "attention_parameters",
    "contrastive_loss",
    "embedding_batches",
    "embedding_loss",
    "export_onnx",
    "head_gates",
    "head_importance",
    "head_layers",
    "label_loss",
    "next_token_loss",
    "prune_heads",
    "remove_heads",
]
