"""The documentation as a site: `make docs` builds it with Sphinx from the Markdown pages of this folder."""

from bertjobs import __version__

project = "bertjobs"
author = "the bertjobs authors"
copyright = "2026, the bertjobs authors. Licensed under Apache-2.0"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

# Anchors of headings as GitHub makes them, so that a link works in both places; tests/docs checks them.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"bertjobs {__version__}"
html_show_sphinx = False
html_copy_source = False
