"""The models, Flax NNX modules with pluggable initializers; `MODELS` is the table of names."""

from flax import nnx

from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.models.cells import GRU, LSTM, MGU, RNN
from jaxinit.models.convolutional import CNN, ResNet
from jaxinit.models.linear import GLR, LRU, RGLRU
from jaxinit.models.mlp import MLP
from jaxinit.models.transformer import EncoderDecoder, Transformer, ViT

MODELS: dict[str, type[nnx.Module]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "mgu": MGU,
    "lru": LRU,
    "glr": GLR,
    "rg_lru": RGLRU,
    "mlp": MLP,
    "cnn": CNN,
    "resnet": ResNet,
    "transformer": Transformer,
    "vit": ViT,
}

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "GLR",
    "GRU",
    "LRU",
    "LSTM",
    "MGU",
    "MLP",
    "MODELS",
    "RGLRU",
    "RNN",
    "EncoderDecoder",
    "ResNet",
    "Transformer",
    "ViT",
]
