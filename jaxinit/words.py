"""How the words of a command line are read: before JAX is imported, and with an answer in one line
where they make no sense.

    words -> a command of `cli` with its arguments, not called yet

What help says of a study's settings depends on the model that the words name; a shell that
completes words is told the names of schemes, tasks, models and optimizers.
"""

import ast
import inspect
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import fields, make_dataclass
from functools import partial, wraps
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from jaxinit.console import LONGEST
from jaxinit.study import MODELS, BadStudy, Name, Names, Study, check_name, descriptions

Commands: TypeAlias = Mapping[str, Callable[..., int]]
Asked: TypeAlias = Mapping[str, Study]
COMPLETION = "--tyro-print-completion"  # the parser's own option
# Of options before and after a command, which ours do not have.
MISPLACED = " Arguments are applied to the directly preceding subcommand, so ordering can matter"
Choices: TypeAlias = Mapping[str, Any]
NOTHING: Choices = MappingProxyType({})


def parsed(words: Sequence[str], commands: Commands, asked: Asked, about: str) -> Callable[[], int]:
    """The command that the words ask for, to be carried out by calling it.

    `commands` by their names; `asked`, the study whose settings are the defaults of a command that
    takes one; `about`, what help says first.
    Raises: BadStudy, one line, for words that ask for none; SystemExit after printing help.
    """
    return _read(words, commands, asked, about, NOTHING)


def _read(
    words: Sequence[str], commands: Commands, asked: Asked, about: str, choices: Choices
) -> Callable[[], int]:
    """As `parsed`, where what has `choices` is one of them."""
    later: dict[str, Callable[..., Any]] = {
        name: _later(command, choices) for name, command in commands.items()
    }
    if words[:1] and words[0] in asked and {"-h", "--help"} & set(words):
        later[words[0]] = _with_help(words[0], commands[words[0]], asked[words[0]], words)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                later, prog="jaxinit", description=about, args=words
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadStudy(_in_one_line(complaint.getvalue(), words)) from None


def completion(words: Sequence[str], commands: Commands, asked: Asked, about: str) -> str:
    """The parser's script for a shell, with each option's help in one line, which the shell would
    offer line by line, and with files where nothing else is known; the arguments are those of
    `parsed`.

    Raises: BadStudy for another shell than bash or zsh.
    """
    if words[1:] not in (["bash"], ["zsh"]):
        raise BadStudy(f"{COMPLETION} is for bash or zsh, got {' '.join(words[1:]) or 'nothing'}")
    script = io.StringIO()
    with redirect_stdout(script), suppress(SystemExit):
        _read(words, commands, asked, about, _choices())
    lines = []
    for line in script.getvalue().splitlines():
        name, equals, options = line.partition(" = ")
        if name == "COMPLETION_SPEC":
            line = f"{name}{equals}{_in_lines(ast.literal_eval(options))!r}"
        lines.append(line.replace("complete -F", "complete -o default -F"))
    return "\n".join(lines)


def with_address(words: Sequence[str]) -> list[str]:
    """The words, with `local` after a --cluster that names no address."""
    whole = []
    for word, following in pairwise([*words, "-"]):
        whole.append(word)
        if word == "--cluster" and following.startswith("-"):
            whole.append("local")
    return whole


def _choices() -> Choices:
    """The types of options that are names, for a shell to complete them; what has no option's name
    before it the parser's script cannot complete. Where words are read they are any words: a name
    may be a file or a call too, and a wrong one is told its nearest."""
    from jaxinit.engine.training import OPTIMIZERS
    from jaxinit.options import ACTIVATIONS
    from jaxinit.schemes import SCHEMES
    from jaxinit.study import DTYPES, PRECISIONS, SCHEDULES, SEARCHES
    from jaxinit.tasks import TASKS
    from jaxinit.tasks.arrays import LOSSES

    scheme = Literal[*SCHEMES]
    return {
        "schemes": tuple[scheme, ...],
        "baseline": scheme,
        "task": Literal[*TASKS],
        "model": Literal[*MODELS],
        "optimizer": Literal[*OPTIMIZERS],
        "activation": Literal[*ACTIVATIONS, None],
        "search": Literal[*SEARCHES, None],
        "schedule": Literal[*SCHEDULES],
        "dtype": Literal[*DTYPES],
        "param_dtype": Literal[*DTYPES],
        "matmul_precision": Literal[*PRECISIONS],
        "scheme": Literal[*SCHEMES, None],
        "loss": Literal[*LOSSES, None],
    }


def _later(command: Callable[..., int], choices: Choices) -> Callable[..., Callable[[], int]]:
    """The command with its arguments, not called yet; its study is read as words."""

    @wraps(command)
    def bound(*args: object, **options: Any) -> Callable[[], int]:
        if "study" in options:
            options["study"] = Study(**vars(options["study"]))
        return partial(command, *args, **options)

    arguments = []
    for argument in inspect.signature(command).parameters.values():
        if argument.name == "study":
            words = _study_in_words(choices=choices)
            argument = argument.replace(
                annotation=tyro.conf.OmitArgPrefixes[words], default=words(**vars(argument.default))
            )
        elif argument.name in choices and argument.kind is not argument.POSITIONAL_ONLY:
            argument = argument.replace(annotation=choices[argument.name])
        arguments.append(argument)
    read: Any = bound
    del read.__wrapped__  # of which the parser would read the types
    read.__signature__ = inspect.Signature(arguments)
    read.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    return read


def _study_in_words(texts: Mapping[str, str] | None = None, choices: Choices = NOTHING) -> type:
    """A study as the parser reads it, where an object is the name of one; with the help `texts` of
    the settings that are to be shown, which hide the others."""
    in_words = {Name: str, Names: tuple[str, ...]}
    settings = []
    for field in fields(Study):
        kind: Any = choices.get(field.name, in_words.get(field.type, field.type))
        if texts is not None and field.name in texts:
            kind = Annotated[kind, tyro.conf.arg(help=texts[field.name])]
        elif texts is not None:
            kind = tyro.conf.Suppress[kind]
        settings.append((field.name, kind))
    return make_dataclass("Study", settings, frozen=True)


def _with_help(name: str, command: Callable[..., int], asked: Study, words: Sequence[str]) -> type:
    """What the parser is to show of a command for the model that the words name.

    The parser reads names, types and help from a dataclass as from a function, so the command and
    its study are copied into dataclasses whose types carry the help. They serve for help alone: the
    parser hides a field by not knowing it, and an option that the model does not take is to be
    refused by name.
    Raises: BadStudy for a model that there is not.
    """
    model = _model_named(words) or asked.model
    check_name("model", model, MODELS)
    texts = descriptions(model)
    texts["model"] += (
        f" The options of {model} are listed here; for those of another: jaxinit {name} --model "
        "NAME --help."
    )
    study = _study_in_words(texts)
    arguments = []
    for argument in inspect.signature(command).parameters.values():
        kind, default = argument.annotation, argument.default
        if argument.name == "study":
            kind, default = tyro.conf.OmitArgPrefixes[study], study(**vars(asked))
        arguments.append((argument.name, kind, default))
    shown = make_dataclass(name, arguments)
    shown.__doc__ = command.__doc__
    return shown


def _model_named(words: Sequence[str]) -> str | None:
    """The model that the words name, the last of several; None where they name none."""
    named = None
    for word, following in pairwise([*words, "-"]):
        option, equals, value = word.partition("=")
        if option == "--model":
            given = value if equals else following
            named = None if given.startswith("-") else given
    return named


def _in_one_line(box: str, words: Sequence[str]) -> str:
    """What the parser says of words that it does not understand: the first part of its box, and
    what it suggests.

    The parts are divided by lines; in ASCII, the title is the first of them.
    """
    parts: list[list[str]] = [[]]
    for raw in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        line = raw.strip("│ ")
        if not line or line.startswith(("╭", "╰")):
            continue
        if set(line) <= set("─-"):
            parts.append([])
        else:
            parts[-1].append(line)
    if "╭" not in box and len(parts) > 1:
        del parts[0]
    complaint = " ".join(parts[0])[:LONGEST].rstrip(".")
    for part in parts[1:]:
        if part[:1] == ["Perhaps you meant:"] and len(part) > 1:
            meant = part[1].split()[0].rstrip(",")
            if meant not in complaint:  # an option of another command
                complaint += f"; perhaps you meant {meant}"
        elif part and part[0].startswith("Available subcommands"):
            complaint += f"; {' '.join(part)}"
    complaint = complaint.replace(MISPLACED, "")
    helped = "jaxinit --help"
    if "Available subcommands" not in box and words and words[0].isalpha():
        helped = f"jaxinit {words[0]} --help"
    return f"{complaint}; see {helped}"


def _in_lines(options: Any) -> Any:
    """The same with every text in one line."""
    if isinstance(options, dict):
        return {name: _in_lines(its) for name, its in options.items()}
    if isinstance(options, list):
        return [_in_lines(its) for its in options]
    return " ".join(options.split()) if isinstance(options, str) else options
