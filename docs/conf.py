"""How the site is built: ``make docs``."""

from __future__ import annotations

import numpydoc.xref

import atlas

project = "Atlas"
author = "The Atlas developers"
copyright = author
version = release = atlas.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser", "sphinx_copybutton"]

# A reference to nothing is a warning, and `make docs` has none.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(numpy|pandas|pyarrow|xarray|awkward|fsspec|dask)\..*")]

# Pages are Markdown that reads well on its own; links to their headings are those of GitHub.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "fieldlist"]

autosummary_generate = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
numpydoc_show_class_members = False
# Types that are our own lead to their page; those of others have theirs elsewhere, and words are words.
numpydoc.xref.DEFAULT_LINKS.clear()
numpydoc_xref_param_type = True
numpydoc_xref_aliases = {name: f"atlas.{name}" for name in atlas.__all__} | {"Condition": "atlas.conditions.Condition"}
numpydoc_xref_ignore = "all"
# Quotes in docstrings are Python's.
smartquotes = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

# A block that does not say what it is, is not Python: help, commands, bytes.
highlight_language = "none"

html_theme = "furo"
html_title = f"Atlas {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False


def hide_how_it_is_made(app, what, name, thing, options, signature, returned):
    """Most classes are made by calls, and not by those who use them."""
    return ("", None) if what == "class" and name != "atlas.StoreConfig" else None


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", hide_how_it_is_made)
