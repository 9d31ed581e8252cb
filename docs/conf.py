"""How Sphinx builds the site: ``python -m sphinx -W -b html docs build/docs``."""

from __future__ import annotations

import groq_provider

project = "groq-provider"
author = "the authors of groq-provider"
copyright = author
version = release = groq_provider.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = False

# Docstrings have Google sections. Their "Attributes:" stand as fields, because autodoc lists the attributes already.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures of the source are clear, and a repeat as fields is not
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"groq-provider {release}"
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []
