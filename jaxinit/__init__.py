"""jaxinit: measure whether it matters how a network is initialized.

The names below are the table of contents; they are imported when first used, so that importing
jaxinit, and `jaxinit --help`, cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxinit import initializers as initializers
    from jaxinit import introspect as introspect
    from jaxinit import theory as theory
    from jaxinit.analysis.answer import Answer as Answer
    from jaxinit.analysis.answer import load as load
    from jaxinit.analysis.health import judge as judge
    from jaxinit.analysis.signal_figures import plot_signals as plot_signals
    from jaxinit.analysis.store import Result as Result
    from jaxinit.auditing import assert_well_initialized as assert_well_initialized
    from jaxinit.auditing import audit as audit
    from jaxinit.auditing.fresh import plan as plan
    from jaxinit.auditing.fresh import reinitialize as reinitialize
    from jaxinit.engine.again import extend as extend
    from jaxinit.engine.again import rerun as rerun
    from jaxinit.engine.campaign import run as run
    from jaxinit.engine.cluster import Cluster as Cluster
    from jaxinit.engine.coordcheck import coordinate_check as coordinate_check
    from jaxinit.engine.survey import survey as survey
    from jaxinit.engine.sweep import one_device_per_core as one_device_per_core
    from jaxinit.finetune import LoRA as LoRA
    from jaxinit.finetune import extend_vocabulary as extend_vocabulary
    from jaxinit.finetune import load_checkpoint as load_checkpoint
    from jaxinit.finetune import pretrain as pretrain
    from jaxinit.finetune import pretrained as pretrained
    from jaxinit.finetune import save_checkpoint as save_checkpoint
    from jaxinit.finetune import step_zero as step_zero
    from jaxinit.introspect import adapt as adapt
    from jaxinit.introspect import declare as declare
    from jaxinit.introspect import initialize as initialize
    from jaxinit.introspect import leaves as leaves
    from jaxinit.models import CNN as CNN
    from jaxinit.models import GLR as GLR
    from jaxinit.models import GRU as GRU
    from jaxinit.models import LRU as LRU
    from jaxinit.models import LSTM as LSTM
    from jaxinit.models import MGU as MGU
    from jaxinit.models import MLP as MLP
    from jaxinit.models import RGLRU as RGLRU
    from jaxinit.models import RNN as RNN
    from jaxinit.models import EncoderDecoder as EncoderDecoder
    from jaxinit.models import ResNet as ResNet
    from jaxinit.models import Transformer as Transformer
    from jaxinit.models import ViT as ViT
    from jaxinit.schemes import SCHEMES as SCHEMES
    from jaxinit.signals.probes import probe as probe
    from jaxinit.spec import Leaf as Leaf
    from jaxinit.spec import Rule as Rule
    from jaxinit.spec import Scheme as Scheme
    from jaxinit.spec import along as along
    from jaxinit.spec import draw as draw
    from jaxinit.spec import per_gate as per_gate
    from jaxinit.spec import per_part as per_part
    from jaxinit.study import BadStudy as BadStudy
    from jaxinit.study import Study as Study
    from jaxinit.tasks import TASKS as TASKS
    from jaxinit.tasks import Task as Task
    from jaxinit.tasks import task as task

    __version__: str

_HOME = {
    "spec": ("Leaf", "Rule", "Scheme", "draw", "along", "per_gate", "per_part"),
    "schemes": ("SCHEMES",),
    "introspect": ("leaves", "initialize", "declare", "adapt"),
    "models": (
        "RNN",
        "LSTM",
        "GRU",
        "MGU",
        "LRU",
        "GLR",
        "RGLRU",
        "MLP",
        "CNN",
        "ResNet",
        "Transformer",
        "ViT",
        "EncoderDecoder",
    ),
    "tasks": ("TASKS", "Task", "task"),
    "signals.probes": ("probe",),
    "study": ("BadStudy", "Study"),
    "engine.campaign": ("run",),
    "engine.again": ("extend", "rerun"),
    "engine.cluster": ("Cluster",),
    "engine.survey": ("survey",),
    "engine.coordcheck": ("coordinate_check",),
    "engine.sweep": ("one_device_per_core",),
    "analysis.health": ("judge",),
    "analysis.answer": ("Answer", "load"),
    "analysis.signal_figures": ("plot_signals",),
    "analysis.store": ("Result",),
    "auditing": ("audit", "assert_well_initialized"),
    "auditing.fresh": ("plan", "reinitialize"),
    "finetune": (
        "LoRA",
        "pretrained",
        "pretrain",
        "extend_vocabulary",
        "step_zero",
        "save_checkpoint",
        "load_checkpoint",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
_FOLDERS = ("initializers", "introspect", "theory")
__all__ = [*_FOLDERS, *_MODULE]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> object:
    if name in _MODULE:
        return getattr(import_module(f"jaxinit.{_MODULE[name]}"), name)
    if name in _FOLDERS:
        return import_module(f"jaxinit.{name}")
    if name == "__version__":
        return import_module("importlib.metadata").version("jaxinit")
    raise AttributeError(f"module 'jaxinit' has no attribute {name!r}")
