"""Formulas as MathML, which browsers draw themselves: no LaTeX at build time, no script from a CDN in the page."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def to_mathml(node, *, display):
    markup = tex2mathml(node.astext().strip(), as_block=display)
    return f'<div class="math">{markup}</div>\n' if display else markup


def visit_math(self, node):
    self.body.append(to_mathml(node, display=False))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    self.body.append(to_mathml(node, display=True))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
