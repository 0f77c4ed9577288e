"""The models, Flax NNX modules with pluggable initializers; `MODELS` is the table of names."""

from flax import nnx

from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.models.mlp import MLP
from jaxinit.models.recurrent import GRU, LSTM, RNN

MODELS: dict[str, type[nnx.Module]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU, "mlp": MLP}

__all__ = ["ACTIVATIONS", "GRU", "LSTM", "MLP", "MODELS", "RNN"]
