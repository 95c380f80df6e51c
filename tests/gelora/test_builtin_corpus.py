import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gelora import builtin_corpus as module
from gelora.builtin_corpus import BuiltinCorpus, builtin_corpus, write_builtin_corpus

NAMES = re.compile(
    r"(?i:numpy|scipy|scikit|sklearn|torch|matplotlib|pyplot|networkx|pandas|transformer|hugging ?face)"
    r"|\b(?:np|plt|nx|xr|pd)\b"  # "NP-complete" is English
)


@pytest.fixture(scope="module")
def corpus() -> BuiltinCorpus:
    return builtin_corpus(n_train=800, n_validation=160)


def all_texts(corpus: BuiltinCorpus) -> list[str]:
    return corpus.train.texts + corpus.validation.texts


@pytest.mark.smoke
def test_sizes_are_those_asked_for_and_every_class_has_its_even_share(corpus: BuiltinCorpus) -> None:
    assert len(corpus.train) == 800
    assert len(corpus.validation) == 160
    assert set(Counter(corpus.train.labels).values()) == {100}
    assert set(Counter(corpus.validation.labels).values()) == {20}
    assert set(corpus.train.labels) == set(range(len(corpus.label_names)))


def test_a_size_that_does_not_divide_evenly_differs_by_one_at_most_between_classes() -> None:
    small = builtin_corpus(n_train=21, n_validation=3)
    counts = Counter(small.train.labels)
    assert len(small.train) == 21
    assert max(counts.values()) - min(counts.values()) == 1
    assert small.validation.labels == [0, 1, 2]


def test_the_first_texts_of_a_split_are_balanced_too(corpus: BuiltinCorpus) -> None:
    assert set(Counter(corpus.train.labels[:80]).values()) == {10}


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another(corpus: BuiltinCorpus) -> None:
    again = builtin_corpus(n_train=800, n_validation=160)
    other = builtin_corpus(n_train=800, n_validation=160, seed=1)
    assert again == corpus
    assert other.fingerprint != corpus.fingerprint
    assert set(other.train.texts) != set(corpus.train.texts)


def test_no_text_and_no_file_serves_both_splits(corpus: BuiltinCorpus) -> None:
    assert len(set(all_texts(corpus))) == len(all_texts(corpus))
    assert not set(corpus.train.sources) & set(corpus.validation.sources)


def test_no_validation_text_shares_most_of_its_four_word_runs_with_a_training_text(
    corpus: BuiltinCorpus,
) -> None:
    def runs(text: str) -> set[str]:
        words = re.sub(r"[^a-z ]", "", text.lower()).split()
        return {" ".join(words[i : i + 4]) for i in range(max(len(words) - 3, 1))}

    train = [runs(text) for text in corpus.train.texts]
    for text in corpus.validation.texts:
        mine = runs(text)
        assert max(len(mine & other) / len(mine) for other in train) <= 1 / 3, text


def test_no_library_name_is_left(corpus: BuiltinCorpus) -> None:
    assert [text for text in all_texts(corpus) if NAMES.search(text)] == []


def test_labels_name_the_library_of_the_source_file(corpus: BuiltinCorpus) -> None:
    packages = [module.PACKAGES[corpus.label_names[label]] for label in corpus.train.labels]
    assert packages == [source.split("/")[0] for source in corpus.train.sources]


def test_texts_are_sentences_of_five_to_forty_words(corpus: BuiltinCorpus) -> None:
    for text in all_texts(corpus):
        assert 5 <= len(text.split()) <= 40, text
        assert text[0].isupper(), text
        assert text[-1] in ".!?", text


def test_texts_look_like_english_and_hold_no_code_or_markup(corpus: BuiltinCorpus) -> None:
    words = [word.strip("()\"'.,;:!?") for text in all_texts(corpus) for word in text.split()]
    assert np.mean([re.fullmatch(r"[A-Za-z'’-]+", word) is not None for word in words]) > 0.96
    assert Counter(map(str.lower, words)).most_common(1)[0][0] == "the"
    for text in all_texts(corpus):
        assert not any(mark in text for mark in (">>>", "::", "`", "..", "__", "{", "[", "http", "|", "=")), text


def test_versions_and_fingerprint_say_what_the_corpus_was_made_from(corpus: BuiltinCorpus) -> None:
    assert corpus.versions.keys() == set(corpus.label_names)
    assert corpus.versions["numpy"] == np.__version__
    assert re.fullmatch(r"[0-9a-f]{64}", corpus.fingerprint)


@pytest.mark.slow
def test_the_default_corpus_is_made_within_ten_seconds() -> None:
    start = time.perf_counter()
    builtin_corpus()
    assert time.perf_counter() - start < 10


def test_written_files_hold_sentence_and_label(corpus: BuiltinCorpus, tmp_path: Path) -> None:
    train, validation = write_builtin_corpus(corpus, tmp_path / "corpus")
    assert [train.name, validation.name] == ["train.parquet", "validation.parquet"]
    table = pq.read_table(train)
    assert table.column_names == ["sentence", "label"]
    assert table["sentence"].to_pylist() == corpus.train.texts
    assert pq.read_table(validation)["label"].to_pylist() == corpus.validation.labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "`n_train` must be an integer of at least 1, got 0"),
        ({"n_train": True}, "`n_train` must be an integer of at least 1, got True"),
        ({"n_train": 8, "n_validation": -1}, "`n_validation` must be an integer of at least 0, got -1"),
        ({"n_train": 8, "seed": -1}, "`seed` must be an integer of at least 0, got -1"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        builtin_corpus(**arguments)


def test_asking_for_more_than_the_packages_hold_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"tqdm": "tqdm"})
    with pytest.raises(ValueError, match=r"`n_train` must not exceed .* got 100000: tqdm has \d+ sentences left"):
        builtin_corpus(n_train=100_000)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"absent": "no_such_package"})
    with pytest.raises(ModuleNotFoundError, match="docstrings of no_such_package, which is not installed"):
        builtin_corpus(n_train=8)


@pytest.mark.parametrize(
    ("docstring", "sentences"),
    [
        ("Return the sorted copy of ``a`` and :class:`~pkg.mod.Thing`.",
         ["Return the sorted copy of a and Thing."]),
        ("A NumPy array, e.g. from np.sum or SciPy itself.",
         ["A library array, for example from sum or library itself."]),
        ("The two PyTorch/TorchScript names.\n\n>>> x is the code of this example.", []),
        ("First sentence ends right here. Second one, i.e. this one, follows it.",
         ["First sentence ends right here.", "Second one, that is this one, follows it."]),
        ("A summary that is kept.\n\nParameters\n----------\nAnything that stands in here is dropped.\n\n"
         "Notes\n-----\nNotes are prose and are kept [1]_.",
         ["A summary that is kept.", "Notes are prose and are kept."]),
        ("The method is described in [1]_.", []),
        ("A summary that is kept.\n\n.. note::\n    An indented note is dropped.\n\n- A list item is too.",
         ["A summary that is kept."]),
        ("Too short here.", []),
        ("The value x = 3 is code and so is a_b here.", []),
    ],
)  # fmt: skip
def test_docstrings_become_clean_sentences(docstring: str, sentences: list[str]) -> None:
    found = [text for paragraph in module._prose(docstring) for text in module._sentences(paragraph)]
    assert found == sentences


def test_documentation_attached_by_add_newdoc_is_read(tmp_path: Path) -> None:
    path = tmp_path / "docs.py"
    path.write_text('add_newdoc("numpy", "thing", """\n    Return a thing that C code made.\n\n    """)\n')
    assert list(module._file_sentences(path)) == ["Return a thing that C code made."]
