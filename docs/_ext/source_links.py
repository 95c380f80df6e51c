"""Mend the links from a page of source code back to the API.

`sphinx.ext.viewcode` knows one name of a module: where some of its functions are documented under `gelora` and others
under the module's own name, the anchors of these are wrong. Every page of the API is named by the anchor it has.
"""

import re

TO_API = re.compile(r"(api/generated/([\w.]+)\.(\w+)\.html#)[\w.]+\.\3(?=\")")


def mend(app, pagename, templatename, context, doctree):
    if pagename.startswith("_modules/"):
        context["body"] = TO_API.sub(r"\1\2.\3", context["body"])


def setup(app):
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
