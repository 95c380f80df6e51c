"""Texts that are read in blocks, from disk or as they pass, are the same texts as those of a list."""

import json
from itertools import combinations

import datasets
import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

import gelora
from gelora.corpora import Texts, read_texts
from gelora.encoding import encode, needs_tokenizer
from gelora.representations import extract_representations
from gelora.text_values import BLOCK, Reservoir, TextArrayBuilder
from gelora.token_table import first_of_equal
from tiny_models import tiny_model, tiny_texts, tiny_tokenizer

N = 2 * BLOCK + 345
TEXTS = [f"text {i} é\U0001f600" for i in range(N)]
PAIRS = [(text, f"other {i}") for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def dataset():
    others = [second for _, second in PAIRS]
    return datasets.Dataset.from_dict({"n": list(range(N)), "text": TEXTS, "other": others, "pair": PAIRS})


class Counting:
    """A dataset that writes down how many rows it was asked for at once."""

    def __init__(self, data):
        self.data, self.asked = data, []
        self.column_names, self.features, self.info, self.format = (
            data.column_names,
            data.features,
            data.info,
            data.format,
        )

    def with_format(self, kind):
        assert kind is None
        return self

    def select_columns(self, names):
        self.data = self.data.select_columns(names)
        return self

    def __len__(self):
        return len(self.data)

    def __getitem__(self, rows):
        found = self.data[rows]
        self.asked.append(len(next(iter(found.values()))))
        return found


def test_a_dataset_is_read_once_in_blocks_and_then_only_where_rows_are_drawn(dataset):
    counting = Counting(dataset)
    texts = read_texts(counting, text_column="text")
    assert counting.asked == [BLOCK, BLOCK, 345]
    assert texts.fingerprint() == Texts(TEXTS, "").fingerprint()
    assert counting.asked == [BLOCK, BLOCK, 345]
    rows = np.array([3, 1500, N - 1])
    assert texts.take(rows) == [TEXTS[row] for row in rows]
    assert counting.asked[3:] == [3]


def test_the_examples_of_a_draw_read_no_other_rows_a_second_time():
    counting = Counting(datasets.Dataset.from_dict({"text": tiny_texts(500)}))
    examples = encode(tiny_model("bert"), counting, tokenizer=tiny_tokenizer(), n_samples=20)
    assert counting.asked == [500, 20]
    assert examples.record["n_available"] == 500


def files(folder):
    frame = pd.DataFrame({"n": range(N), "text": TEXTS, "other": [second for _, second in PAIRS]})
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    frame.to_json(folder / "a.json", orient="records")
    frame.to_parquet(folder / "a.parquet", row_group_size=700)
    return [folder / f"a.{kind}" for kind in ("csv", "jsonl", "json", "parquet")]


def test_lazy_texts_and_pairs_are_those_of_a_list(dataset, tmp_path):
    column = dataset.to_iterable_dataset()
    for data in (dataset, dataset.with_format("numpy"), column, *files(tmp_path)):
        for columns, expected in (("text", TEXTS), (("text", "other"), PAIRS)):
            texts = read_texts(data, text_column=columns)
            whole = read_texts(expected)
            assert list(texts.values) == expected
            assert len(texts.values) == texts.n_available == N
            assert texts.fingerprint() == whole.fingerprint()
            rows = np.array([0, 999, 1000, N - 1])
            assert texts.take(rows) == whole.take(rows) == [expected[row] for row in rows]
            assert [texts.values[-1], texts.values[2]] == [expected[-1], expected[2]]
            assert list(texts.values[998:1003]) == expected[998:1003]
            with pytest.raises(IndexError):
                texts.values[N]


def test_a_column_of_pairs_and_a_column_of_a_dataset_are_texts(dataset):
    assert read_texts(dataset, text_column="pair").take(np.array([1, 5])) == [PAIRS[1], PAIRS[5]]
    assert needs_tokenizer(dataset["text"])
    texts = read_texts(dataset["text"])
    assert list(texts.values) == TEXTS
    assert not isinstance(texts.values, list)
    with pytest.raises(ValueError, match="leave it out for a column"):
        read_texts(dataset["text"], text_column="text")


def test_what_a_transform_makes_of_the_rows_is_what_is_read(dataset):
    def shout(batch):
        return {"text": [f"{text} {n}".upper() for text, n in zip(batch["text"], batch["n"], strict=True)]}

    texts = read_texts(dataset.with_transform(shout), text_column="text")
    assert list(texts.values) == [f"{text} {n}".upper() for n, text in enumerate(TEXTS)]


def test_an_entry_that_is_no_text_is_named_by_its_row_wherever_it_is(tmp_path):
    wrong = [*TEXTS[: BLOCK + 7], None, "more"]
    data = datasets.Dataset.from_dict({"text": wrong})
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    for source in (data, data.to_iterable_dataset(), tmp_path / "a.parquet", tmp_path / "a.jsonl", wrong):
        with pytest.raises(TypeError, match=f"in row {BLOCK + 7}: drop or fill"):
            read_texts(source)
    translations = datasets.Dataset.from_dict({"both": [{"en": "a", "fr": "b"}]})
    with pytest.raises(TypeError, match="got dict .*in row 0"):  # not a pair of its keys
        read_texts(translations, text_column="both")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_json_lines_may_come_by_a_column_late_and_tell_where_they_are_wrong(tmp_path):
    many = [{"n": i} for i in range(11 * BLOCK)]
    late = write_lines(tmp_path / "late.jsonl", [*many, {"text": "a"}])
    for column in (None, "text"):
        with pytest.raises(TypeError, match="in row 0: drop"):
            read_texts(late, text_column=column)
    with pytest.raises(ValueError, match=r"no column 'word' in late.jsonl, it has \['n', 'text'\]"):
        read_texts(late, text_column="word")
    cut = write_lines(tmp_path / "cut.jsonl", [{"text": "a"}] * 11 * BLOCK)
    cut.write_text(cut.read_text() + '{"text": \n')
    with pytest.raises(
        ValueError, match=f"could not be read as .jsonl file: .*counted from the end of row {10 * BLOCK - 1}"
    ):
        read_texts(cut)
    mixed = write_lines(tmp_path / "mixed.jsonl", [{"text": ["a", "b"]}, {"text": "a"}])
    with pytest.raises(TypeError, match="texts or pairs of texts, got both"):
        read_texts(mixed, text_column="text")


def test_a_text_file_that_is_not_utf8_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text\n" * 3000 + "é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"not UTF-8 text \(line 3001: .*convert it first"):
        read_texts(tmp_path / "a.txt")


def test_the_first_of_equal_marks_is_found_among_many():
    marks = np.random.default_rng(0).integers(0, 60_000, size=150_000).astype("S16")
    expected = np.sort(np.unique(marks, return_index=True)[1])
    np.testing.assert_array_equal(first_of_equal(marks), expected)
    assert first_of_equal(marks[:0]).tolist() == []


def test_lone_surrogates_survive_in_the_array():
    builder = TextArrayBuilder()
    builder.add([])
    builder.add([("a\ud800", "b"), ("", "\U0001f600")])
    builder.add([])
    builder.add([("c", "d")])
    assert list(builder.finish()) == [("a\ud800", "b"), ("", "\U0001f600"), ("c", "d")]
    assert list(TextArrayBuilder().finish()) == []


def drawn(size, seed, blocks):
    reservoir = Reservoir(size, seed)
    for block in blocks:
        reservoir.add(block)
    return reservoir.finish()


def test_every_sample_of_a_reservoir_is_as_likely_as_any():
    subsets = dict.fromkeys(combinations(range(6), 3), 0)
    for seed in range(4000):
        subsets[tuple(drawn(3, seed, ["abcd", "ef"])[0])] += 1
    assert chisquare(list(subsets.values())).pvalue > 0.01


def test_a_sample_of_a_stream_does_not_depend_on_the_blocks():
    samples = []
    for size in (1, 7, 50, N):
        blocks = [TEXTS[start : start + size] for start in range(0, N, size)]
        rows, texts = drawn(40, 3, blocks)
        assert texts == [TEXTS[row] for row in rows]
        samples.append(rows.tolist())
    assert samples[0] == sorted(set(samples[0]))
    assert len(samples[0]) == 40
    assert samples.count(samples[0]) == 4
    assert drawn(40, 4, [TEXTS])[0].tolist() != samples[0]


def test_a_stream_is_drawn_from_in_one_pass_and_its_record_is_that_of_the_whole():
    passed = []

    def rows():
        for row, text in enumerate(TEXTS):
            passed.append(row)
            yield {"text": text, "n": row}

    features = datasets.Features({"text": datasets.Value("string"), "n": datasets.Value("int64")})
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    texts = read_texts(stream, n_samples=25, seed=1)
    assert passed == list(range(N))
    assert len(texts.values) == 25
    assert texts.n_available == N
    assert texts.fingerprint() == Texts(TEXTS, "").fingerprint()
    assert texts.take(texts.rows) == [TEXTS[row] for row in texts.rows]
    assert (read_texts(stream, n_samples=N + 1).rows == np.arange(N)).all()
    unknown = datasets.IterableDataset.from_generator(rows)  # of columns that only its rows tell
    assert unknown.column_names is None
    assert read_texts(unknown, n_samples=25, seed=1).values == texts.values
    with pytest.raises(ValueError, match="no column 'txt' .*did you mean 'text'"):
        read_texts(unknown, text_column="txt")


def test_a_model_reads_a_stream_as_it_reads_a_list_of_the_rows_drawn():
    model, tokenizer, corpus = tiny_model("bert"), tiny_tokenizer(), tiny_texts(120)
    data = datasets.Dataset.from_dict({"text": corpus})
    options = {"tokenizer": tokenizer, "progress": False, "seed": 5}
    whole = extract_representations(model, corpus, n_samples=None, **options)
    for lazy in (data, data.to_iterable_dataset()):
        every = extract_representations(model, lazy, n_samples=None, **options)
        np.testing.assert_array_equal(every.rows["encoder"], whole.rows["encoder"])
        assert all((one == two).all() for one, two in zip(every.clouds, whole.clouds, strict=True))
    some = extract_representations(model, data.to_iterable_dataset(), n_samples=30, **options)
    assert some.attributes["n_texts"] == 30
    assert some.attributes["n_available"] == 120
    assert some.attributes["data_fingerprint"] == whole.attributes["data_fingerprint"]
    first = {corpus[row]: place for place, row in enumerate(whole.rows["encoder"])}
    places = [first[corpus[row]] for row in some.rows["encoder"]]
    np.testing.assert_allclose(some[2], whole[2][places], rtol=1e-4, atol=2e-6)


def test_profiles_of_a_list_a_dataset_a_stream_and_a_file_are_the_same(tmp_path):
    corpus = tiny_texts(150)
    data = datasets.Dataset.from_dict({"text": corpus})
    data.to_parquet(tmp_path / "a.parquet")
    options = {"tokenizer": tiny_tokenizer(), "estimator": "twonn", "progress": False, "scheduler": "serial"}
    profiles = [
        gelora.estimate(tiny_model("bert"), source, n_samples=None, **options)
        for source in (corpus, data, data.to_iterable_dataset(), tmp_path / "a.parquet")
    ]
    for profile in profiles[1:]:
        np.testing.assert_array_equal(profile["dimension"], profiles[0]["dimension"])
        assert profile.attrs["data_fingerprint"] == profiles[0].attrs["data_fingerprint"]
    drawn = [gelora.estimate(tiny_model("bert"), source, n_samples=100, **options) for source in (corpus, data)]
    np.testing.assert_array_equal(drawn[0]["dimension"], drawn[1]["dimension"])


def test_what_cannot_be_done_with_a_stream_or_several_splits_says_what_can(dataset):
    stream = dataset.to_iterable_dataset()
    options = {"tokenizer": tiny_tokenizer(), "text_column": "text", "progress": False}
    with pytest.raises(ValueError, match=r"`n_samples` must be .* streaming dataset.*list\(data.take\(n\)\)"):
        gelora.estimate(tiny_model("bert"), stream, n_samples="auto", **options)
    with pytest.raises(ValueError, match=r"`n_samples` must be .*, or None for all"):
        extract_representations(tiny_model("bert"), stream, n_samples=0, **options)
    with pytest.raises(ValueError, match="at least one text, got none from"):
        read_texts(stream.filter(lambda row: row["n"] < 0), text_column="text")
    for splits in (datasets.DatasetDict, datasets.IterableDatasetDict):
        data = dataset if splits is datasets.DatasetDict else stream
        with pytest.raises(
            TypeError, match=r"one split of a dataset, got all of \['dev', 'test'\]: pass data\['dev'\]"
        ):
            extract_representations(tiny_model("bert"), splits(test=data, dev=data), **options)
    with pytest.raises(TypeError, match="a list of strings, or a datasets.IterableDataset"):
        extract_representations(tiny_model("bert"), iter(TEXTS), tokenizer=tiny_tokenizer())
