"""Check the links of the built documentation without the network.

Usage: python docs/check_links.py docs/_build/html [README.md …]

In the HTML: every relative link and anchor leads somewhere, no page loads a script, style, picture or font from the
network, links to other sites are well-formed https. In the Markdown files: relative links lead to files.
"""

import argparse
import functools
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, by tag and attribute; the rest of what has an address is followed by readers.
LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("video", "poster"),
    ("track", "src"),
    ("image", "href"),
    ("use", "href"),
    ("audio", "src"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("input", "src"),
}
LOADED_LINKS = {"stylesheet", "icon", "shortcut", "preload", "prefetch", "modulepreload", "preconnect", "manifest"}
OUTSIDE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//|[a-z][a-z0-9+.-]*:", re.IGNORECASE)
STYLE_ADDRESS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
MARKDOWN_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@dataclass
class Page(HTMLParser):
    """What a page loads, where it links to, and the anchors it has."""

    loaded: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    in_style: bool = False

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name, value in given.items():
            if (tag, name) in LOADED:
                self.loaded += (
                    [part.split()[0] for part in value.split(",") if part.strip()] if name == "srcset" else [value]
                )
        relations = set(given.get("rel", "").lower().split())
        if tag == "link" and "href" in given:
            (self.loaded if relations & LOADED_LINKS else self.linked).append(given["href"])
        if tag in ("a", "area") and "href" in given:
            self.linked.append(given["href"])
        if "style" in given:
            self.loaded += addresses_in_style(given["style"])
        self.in_style = tag == "style"

    def handle_endtag(self, _):
        self.in_style = False

    def handle_data(self, data):
        if self.in_style:
            self.loaded += addresses_in_style(data)


def addresses_in_style(text):
    """Return the addresses that a style sheet loads."""
    return [first or second for first, second in STYLE_ADDRESS.findall(text)]


@functools.cache
def read_page(path):
    """Parse an HTML file once."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def check_page(path, root):
    """Return what is wrong with the links of one HTML file."""
    page = read_page(path)
    found = [f"loads {address!r} from elsewhere" for address in page.loaded if is_fetched(address)]
    inside = [address for address in page.loaded if not OUTSIDE.match(address)]
    inside += [address for address in page.linked if not OUTSIDE.match(address)]
    found += [problem for address in dict.fromkeys(inside) if (problem := check_inside(address, path, root))]
    outside = dict.fromkeys(address for address in page.linked if OUTSIDE.match(address))
    return found + [problem for address in outside if (problem := check_outside(address))]


def is_fetched(address):
    """Say whether a browser would ask another place than the page's own for it."""
    return bool(OUTSIDE.match(address)) and not address.startswith("data:")


def check_inside(address, path, root):
    """Return what is wrong with a relative address, if anything."""
    parts = urlsplit(address)
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(root):
        return f"{address!r} leads out of the documentation"
    if not target.is_file():
        return f"{address!r} leads nowhere"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in read_page(target).anchors:
        return f"{address!r}: that page has no such anchor"
    return ""


def check_outside(address):
    """Return what is wrong with the address of another site, if anything."""
    if address.startswith(("mailto:", "data:", "javascript:void")):
        return ""
    try:
        parts = urlsplit(address)
        good = parts.scheme == "https" and "." in (parts.hostname or "") and not re.search(r"[\s<>\"]", address)
    except ValueError:
        good = False
    return "" if good else f"{address!r} is no well-formed https address"


def check_style(path):
    """Return what a style sheet loads from elsewhere or does not find."""
    found = []
    for address in addresses_in_style(path.read_text(encoding="utf-8", errors="replace")):
        if is_fetched(address):
            found.append(f"loads {address!r} from elsewhere")
        elif not OUTSIDE.match(address) and not (path.parent / unquote(urlsplit(address).path)).exists():
            found.append(f"{address!r} leads nowhere")
    return found


def check_markdown(path):
    """Return what is wrong with the links of a Markdown file."""
    found = []
    for pair in MARKDOWN_LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        address = pair[0] or pair[1]
        if OUTSIDE.match(address):
            found.append(check_outside(address))
        elif (place := unquote(urlsplit(address).path)) and not (path.parent / place).exists():
            found.append(f"{address!r} leads nowhere")
    return [problem for problem in found if problem]


def check(html, markdown=()):
    """Return every problem with the file it is in, and the number of files checked."""
    root = Path(html).resolve()
    pages = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts]  # templates lie there
    found = {path: check_page(path, root) for path in pages}
    found |= {path: check_style(path) for path in sorted(root.rglob("*.css"))}
    found |= {Path(path): check_markdown(Path(path)) for path in markdown}
    return [f"{path}: {problem}" for path, problems in found.items() for problem in problems], len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path, help="the folder of the built pages")
    parser.add_argument("markdown", type=Path, nargs="*", help="Markdown files, read where they lie")
    arguments = parser.parse_args()
    if not (arguments.html / "index.html").is_file():
        sys.exit(f"{arguments.html} holds no built documentation: run `make docs`")
    problems, n_files = check(arguments.html, arguments.markdown)
    print("\n".join([*problems, f"{n_files} files checked, {len(problems)} problems"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
