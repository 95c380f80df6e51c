"""Sphinx configuration: everything is made offline, and pages load nothing from the network."""

from importlib.metadata import version as installed_version

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "gelora"
author = "The gelora developers"
project_copyright = "2026, the gelora developers"
release = installed_version("gelora")
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
nitpicky = False
default_role = "autolink"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's tables say the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = f"gelora {release}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["sidebar-nav-bs"]}
html_static_path = ["_static"]
html_css_files = ["gelora.css"]
html_copy_source = False
html_math_renderer = "mathml"


def _mathml(node, display):
    # MathML is drawn by browsers themselves: no LaTeX at build time, no script from a CDN in the page.
    markup = tex2mathml(node.astext().strip(), as_block=display)
    return f'<div class="math">{markup}</div>\n' if display else markup


def _visit_math(self, node):
    self.body.append(_mathml(node, display=False))
    raise nodes.SkipNode


def _visit_displaymath(self, node):
    self.body.append(_mathml(node, display=True))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
