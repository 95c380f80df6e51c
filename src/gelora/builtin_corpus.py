"""The built-in corpus: English from the docstrings of installed packages, labelled by package.

No text is shipped and none is downloaded. The source files of libraries that gelora depends on are
parsed, never imported; their docstrings are cut into sentences, stripped of code and markup, and the
names of the libraries are masked. The task is to tell which library a sentence documents.
"""

import ast
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from gelora.files import atomic_path, make_folder
from gelora.provenance import fingerprint, generator

MASK = "library"

# label name → importable package; all are requirements of gelora, so always there.
PACKAGES = {
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "torch": "torch",
    "transformers": "transformers",
}

# A word that holds one of these is masked whole: NumPyDocString, PyTorch's, matplotlibrc, scikit-image.
LIBRARY_NAME = re.compile(
    r"numpy|scipy|scikit|sklearn|torch|matplotlib|pyplot|pylab|networkx|xarray|pandas|transformer"
    r"|hugging\s?face|tensorflow",
    re.IGNORECASE,
)
LIBRARY_ALIAS = re.compile(r"\b(?:np|plt|mpl|nx|xr|pd|sp|sk|skl|hf|HF|jax|cupy|cudf|dask|aten|NetworKit|cugraph)\b")
MASK_RUN = re.compile(rf"\b{MASK}(?:[\s-]+{MASK})+\b", re.IGNORECASE)

_SKIPPED_FOLDERS = {
    "test", "tests", "testing", "externals", "extern", "vendor", "_vendor", "third_party", "array_api_compat",
    "array_api_extra", "array_api_extern", "benchmarks", "examples", "include", "__pycache__",
}  # fmt: skip
_DOCSTRING_CALLS = ("add_newdoc", "add_docstr", "add_docstr_all")
_PER_FILE = 60
_SHINGLE = 4

_PROSE_SECTIONS = frozenset({"notes", "note", "description", "warnings"})
_UNDERLINE = re.compile(r"^\s*([-=~^*#\"+])\1{2,}\s*$")
_GOOGLE_SECTION = re.compile(r"^(?:\w+ ){0,2}\w+:$")
_NOT_PROSE = re.compile(r"^\s*(?:>>>|\.\.(?:\s|$)|[-*+•]\s|\(?\w{1,3}[.)]\s|:\w|[|<@$#%{\[]|\w[\w, *]* : )")

_INLINE = (
    (re.compile(r"(?<!\w)(?:e\.g\.|eg\.),?"), "for example"),
    (re.compile(r"(?<!\w)i\.e\.,?"), "that is"),
    (re.compile(r"\betc\.(?=\s+[A-Z]|$)"), "and so on."),
    (re.compile(r"\betc\."), "and so on"),
    (re.compile(r"\bvs\."), "versus"),
    (re.compile(r"\bw\.r\.t\.?"), "with respect to"),
    (
        re.compile(r"\b(al|cf|resp|approx|[Ff]ig|[Ee]q|[Ss]ec|[Rr]ef|Dr|Prof|[Cc]hap|[Nn]o|[Vv]ol|pp)\.(?=\s)"),
        r"\1",
    ),
    (
        re.compile(r"\b(in|by|see|of|from|to|and)\s+\[\d+\]_?", re.IGNORECASE),
        r"\1 |",
    ),  # the sentence needs it
    (re.compile(r"\s*(?:\[\d+\]_?)(?:,\s*\[\d+\]_?)*"), ""),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # Markdown link
    (re.compile(r"(?::[\w:+-]+:)?`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # role or link with its own text
    (re.compile(r":[\w:+-]+:`[~!.]*([^`]*)`"), r"\1"),
    (re.compile(r"``([^`]*)``|`[~!.]*([^`]*)`_{0,2}"), lambda match: match[1] or match[2] or ""),
    (re.compile(r"(?<!\w)\*{1,2}(\w[^*]*?)\*{1,2}(?!\w)"), r"\1"),
    (re.compile(r"\b(?:[A-Za-z]\w*\.)+([A-Za-z]\w*)"), r"\1"),  # a.b.c is c
    (re.compile(r"(?<=\w)\(\)"), ""),  # f() is f
    (re.compile(r"\s+"), " "),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?:(?<=[a-z)\d][.!?])|(?<=[A-Za-z][A-Z][.!?]))\s+(?=[A-Z\"'(])")
_RESIDUE = re.compile(r"[`{}\[\]<>=|\\_~^$#@*+%/]|::|\.\.|https?:|www\.|\w\(|--|;\s*$|\b\w+:\w")
_BOILERPLATE = re.compile(
    r"copyright|license|deprecat|todo\b|fixme|docstring|doctest|see also|refer to|versionadded|versionchanged"
    r"|new in version|changed in version|example usage",
    re.IGNORECASE,
)
_WORD = re.compile(r"^[(\"']?[A-Za-z][A-Za-z'’-]*[)\"']?[,;:.!?]?[)\"']?[.]?$")
_CODE_WORD = re.compile(r"\w*[a-z]\w*[A-Z]|\w+\d\w*[a-z]|^[a-z]+\.[a-z]|^-")


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their labels, row by row.

    Parameters
    ----------
    texts : list of str
        One sentence each.
    labels : list of int
        The index into ``BuiltinCorpus.label_names``.
    sources : list of str
        The file each text comes from, as ``package/path.py``.
    """

    texts: list[str]
    labels: list[int]
    sources: list[str]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class BuiltinCorpus:
    """The built-in labelled corpus.

    Parameters
    ----------
    train, validation : LabelledTexts
        Disjoint in texts and in source files; classes in turn, so that every prefix is balanced.
    label_names : tuple of str
        The library of each label.
    versions : dict of str to str
        The installed version of each library: another version, another corpus.
    fingerprint : str
        SHA-256 of all texts and labels.
    """

    train: LabelledTexts
    validation: LabelledTexts
    label_names: tuple[str, ...]
    versions: dict[str, str]
    fingerprint: str


def builtin_corpus(*, n_train: int = 4800, n_validation: int = 800, seed: int = 0) -> BuiltinCorpus:
    """Make the built-in corpus: which library does an English sentence document?

    The sentences are prose from docstrings, 5 to 40 words long, with library names replaced by the
    word "library". Files are read in an order drawn by ``seed``, as many as are needed; those that
    serve validation serve nothing else. A sentence of which more than a third of the four-word runs
    stood in an earlier one is left out, so near-copies do not leak.

    Parameters
    ----------
    n_train : int
        Number of training sentences, split evenly over the libraries.
    n_validation : int
        Number of validation sentences, split evenly over the libraries; 0 for none.
    seed : int
        A non-negative integer. The result follows from it and from the installed versions.

    Returns
    -------
    BuiltinCorpus

    Raises
    ------
    ValueError
        If a size is not a whole number in range or exceeds what the installed packages hold.

    Examples
    --------
    >>> corpus = builtin_corpus(n_train=16, n_validation=8)
    >>> len(corpus.train), corpus.train.labels[:8]
    (16, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    _check_size("n_train", n_train, least=1)
    _check_size("n_validation", n_validation, least=0)
    seen: set[str] = set()
    train, validation = [], []
    for label, package in enumerate(PACKAGES.values()):
        sentences = _read_package(package, seed, seen)
        train.append(_take(sentences, _share(n_train, label), "n_train", n_train, package))
        # What is left of the file that filled the training share is dropped: no file serves both.
        last = train[-1][-1][1] if train[-1] else ""
        rest = (item for item in sentences if item[1] != last)
        validation.append(_take(rest, _share(n_validation, label), "n_validation", n_validation, package))
    splits = _in_turn(train), _in_turn(validation)
    parts = (
        f"{label}\t{text}".encode() for split in splits for label, text in zip(split.labels, split.texts, strict=True)
    )
    return BuiltinCorpus(
        train=splits[0],
        validation=splits[1],
        label_names=tuple(PACKAGES),
        versions={name: version(name) for name in PACKAGES},
        fingerprint=fingerprint([str(len(splits[0])).encode(), *parts]),
    )


def write_builtin_corpus(corpus: BuiltinCorpus, folder: str | Path) -> tuple[Path, Path]:
    """Write ``train.parquet`` and ``validation.parquet`` with the columns sentence and label.

    Parameters
    ----------
    corpus : BuiltinCorpus
        What to write.
    folder : str or Path
        Where to write; made if it does not exist.

    Returns
    -------
    tuple of Path
        The two files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = make_folder(folder)
    paths = target / "train.parquet", target / "validation.parquet"
    for path, split in zip(paths, (corpus.train, corpus.validation), strict=True):
        table = pa.table({"sentence": pa.array(split.texts, pa.string()), "label": pa.array(split.labels, pa.int64())})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)
    return paths


def _check_size(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}: give a number of sentences")


def _share(total: int, label: int) -> int:
    return total // len(PACKAGES) + (label < total % len(PACKAGES))


def _take(
    sentences: Iterator[tuple[str, str]], count: int, argument: str, value: int, package: str
) -> list[tuple[str, str]]:
    taken = list(islice(sentences, count))
    if len(taken) < count:
        raise ValueError(
            f"`{argument}` must not exceed what the installed packages hold, got {value}: "
            f"{package} has {len(taken)} sentences left of {count} needed, ask for fewer"
        )
    return taken


def _in_turn(classes: list[list[tuple[str, str]]]) -> LabelledTexts:
    rows = [
        (items[position][0], label, items[position][1])
        for position in range(max(map(len, classes)))
        for label, items in enumerate(classes)
        if position < len(items)
    ]
    return LabelledTexts([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _read_package(package: str, seed: int, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (sentence, source) from the files of ``package`` in the order drawn by ``seed``."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the built-in corpus reads the docstrings of {package}, which is not installed: "
            "install what gelora requires"
        )
    root = Path(spec.submodule_search_locations[0])
    files = sorted(_python_files(root))
    rng = generator(seed, "builtin_corpus", package)
    for index in rng.permutation(len(files)):
        source = f"{package}/{files[index]}"
        kept = 0
        for sentence in _file_sentences(root / files[index]):
            if kept < _PER_FILE and _is_new(sentence, seen):
                kept += 1
                yield sentence, source


def _python_files(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            if name.endswith(".py") and not name.startswith(("test_", "conftest")):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _is_new(sentence: str, seen: set[str]) -> bool:
    words = re.sub(r"[^a-z ]", "", sentence.lower()).split()
    runs = {" ".join(words[start : start + _SHINGLE]) for start in range(max(len(words) - _SHINGLE + 1, 1))}
    if 3 * len(runs & seen) > len(runs):
        return False
    seen |= runs
    return True


def _file_sentences(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    for docstring in _docstrings(tree):
        for paragraph in _prose(docstring):
            yield from _sentences(paragraph)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
        elif (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _called(node.value) in _DOCSTRING_CALLS
        ):
            # numpy and torch attach the documentation of their C functions by such calls.
            for inner in ast.walk(node.value):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and "\n" in inner.value:
                    yield inspect.cleandoc(inner.value)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    # Unlike ast.walk, never into expressions: five times faster, and no docstring stands there.
    yield node
    for block in ("body", "orelse", "handlers", "finalbody"):
        inner = getattr(node, block, ())
        for child in inner if isinstance(inner, list) else ():
            yield from _statements(child)


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _prose(docstring: str) -> Iterator[str]:
    """Yield the unindented paragraphs that are text: no headings, lists, tables, code, field lists."""
    lines = docstring.expandtabs().splitlines()
    prose, fenced = True, False
    paragraph: list[str] = []
    for number, line in enumerate([*lines, ""]):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.lstrip().startswith("```"):
            fenced = not fenced
        heading = bool(line.strip()) and bool(_UNDERLINE.match(following))
        if heading:
            prose = line.strip().lower() in _PROSE_SECTIONS
        text = prose and not fenced and not heading and bool(line.strip()) and not _UNDERLINE.match(line)
        if text:
            paragraph.append(line)
            continue
        if paragraph and _is_text(paragraph):
            yield " ".join(paragraph)
        paragraph = []


def _is_text(paragraph: list[str]) -> bool:
    return not any(line[0] == " " or _NOT_PROSE.match(line) or _GOOGLE_SECTION.match(line) for line in paragraph)


def _sentences(paragraph: str) -> Iterator[str]:
    for pattern, replacement in _INLINE:
        paragraph = pattern.sub(replacement, paragraph)
    for sentence in map(_mask, _SENTENCE_END.split(paragraph.strip())):
        if _is_english(sentence):
            yield sentence


def _is_english(sentence: str) -> bool:
    words = sentence.split()
    if not 5 <= len(words) <= 40 or not sentence[0].isupper() or sentence[-1] not in ".!?":
        return False
    if _RESIDUE.search(sentence) or _BOILERPLATE.search(sentence) or not sentence.isprintable():
        return False
    if sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    plain = sum(bool(_WORD.match(word)) and not _CODE_WORD.search(word) for word in words)
    return plain >= 0.85 * len(words)


def _mask(sentence: str) -> str:
    words = []
    for word in sentence.split(" "):
        core = word.strip("(\"'.,;:!?)")
        words.append(word.replace(core, MASK) if LIBRARY_NAME.search(core) else word)
    masked = MASK_RUN.sub(MASK, LIBRARY_ALIAS.sub(MASK, " ".join(words)))
    masked = re.sub(rf"\b([Aa])n {MASK}", rf"\1 {MASK}", masked)
    return masked[:1].upper() + masked[1:] if LIBRARY_NAME.match(sentence) else masked
