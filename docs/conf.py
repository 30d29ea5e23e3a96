"""The site of the documentation: `make docs` builds it into dist/docs, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))
sys.path.insert(0, str(HERE))

from histomix import __version__  # noqa: E402

project = "histomix"
author = "The histomix developers"
copyright = author
release = version = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "website.extension",
]
exclude_patterns = ["website"]
templates_path = ["website/templates"]

# Pages: the Markdown files of this folder as they are, which GitHub shows too.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebook holds what scripts/tutorial_notebook.py found
suppress_warnings = ["myst.header"]

# Names: as they stand in histomix.__all__.
autosummary_generate = True
autodoc_typehints = "none"  # they stand in the text
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
default_role = "code"

html_theme = "sphinx_book_theme"
html_title = "histomix"
html_static_path = ["website/static"]
html_css_files = ["histomix.css"]
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "repository_url": "https://github.com/histomix/histomix",
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
