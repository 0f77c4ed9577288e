"""Finetuning: adapters, new tokens and heads, values of a trained model and their files."""

from jaxinit.finetune.checkpoint import load_checkpoint, save_checkpoint
from jaxinit.finetune.lora import (
    LORA_ROLES,
    LoRA,
    lora_gaussian,
    lora_init_b,
    lora_kaiming,
    lora_orthogonal,
    olora,
    pissa,
)
from jaxinit.finetune.tokens import extend_rows, extend_vocabulary
from jaxinit.finetune.trained import StepZero, Trained, divergence, pretrain, pretrained, step_zero

__all__ = [
    "LORA_ROLES",
    "LoRA",
    "StepZero",
    "Trained",
    "divergence",
    "extend_rows",
    "extend_vocabulary",
    "load_checkpoint",
    "lora_gaussian",
    "lora_init_b",
    "lora_kaiming",
    "lora_orthogonal",
    "olora",
    "pissa",
    "pretrain",
    "pretrained",
    "save_checkpoint",
    "step_zero",
]
