"""Sphinx configuration: everything is made offline, and pages load nothing from the network."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

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
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "figures_page",
    "mathml",
    "source_links",
]
templates_path = ["_templates"]
# What the galleries are made from, and what pages include, are no pages themselves.
exclude_patterns = ["_build", "_templates", "_ext", "tutorials", "auto_figures/*.md", "**/*.ipynb", "**/*.py"]
nitpicky = False
default_role = "autolink"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's tables say the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"\.py$",  # all of them are run
    "within_subsection_order": "tutorial_order.TutorialOrder",
    "capture_repr": ("_repr_html_", "__repr__"),
    "doc_module": ("gelora", "gelora_estimators"),
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "thumbnail_size": (400, 280),
}

html_theme = "pydata_sphinx_theme"
html_title = f"gelora {release}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc", "sg_download_links"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}  # as the reader's system has it; unset, the theme complains
html_sidebars = {"**": ["sidebar-nav-bs"], "index": []}
html_static_path = ["_static"]
html_css_files = ["gelora.css", "gallery.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
