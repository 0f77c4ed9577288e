"""How Sphinx builds these pages: scripts/docs."""

import importlib.metadata
import inspect
import re

from sphinx.util.inspect import stringify_signature

project = "jaxinit"
author = copyright = "The jaxinit developers"
release = importlib.metadata.version("jaxinit")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "jaxinit"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as GitHub makes them
nb_execution_mode = "off"  # tests/test_docs.py runs what the pages show

autodoc_typehints = "none"  # the docstrings say shapes and units
default_role = "code"
smartquotes = False
highlight_language = "none"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!jaxinit\.).*")]  # what is ours must be found


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are text with `code`: what else reStructuredText would read in it is escaped, and
    every line is one of a paragraph."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line.strip())
        parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def of_init(app, what, name, obj, options, signature, returns):
    """A module's arguments, which the class of its class hides."""
    if what == "class" and signature == "(*args, **kwargs)":
        own = inspect.signature(obj.__init__)
        rest = own.replace(parameters=list(own.parameters.values())[1:])
        return stringify_signature(rest, show_annotation=False), None


def setup(app):
    app.connect("autodoc-process-signature", of_init)
    app.connect("autodoc-process-docstring", as_plain_text)
