"""Finetuning: adapters, new tokens and heads, pretrained parameters and their files."""
