"""Texts are read the same from every source, and what cannot be read is named."""

import datasets
import numpy as np
import pandas as pd
import pytest

from gelora.corpora import Texts, draw_rows, is_texts, read_texts

TABLE = pd.DataFrame(
    {"idx": [0, 1, 2], "premise": ["one", "NA", "thrée"], "hypothesis": ["a", "b", ""], "label": [0, 1, 0]}
)
PAIRS = [("one", "a"), ("NA", "b"), ("thrée", "")]


@pytest.fixture(params=["csv", "tsv", "jsonl", "json", "parquet", "dataset"])
def source(request, tmp_path):
    if request.param == "dataset":
        return datasets.Dataset.from_pandas(TABLE)
    path = tmp_path / f"data.{request.param}"
    match request.param:
        case "csv":
            TABLE.to_csv(path, index=False)
        case "tsv":
            TABLE.to_csv(path, index=False, sep="\t")
        case "jsonl":
            TABLE.to_json(path, orient="records", lines=True)
        case "json":
            TABLE.to_json(path, orient="records")
        case "parquet":
            TABLE.to_parquet(path)
    return path


def test_every_source_gives_the_same_texts_and_pairs(source):
    assert list(read_texts(source, text_column="premise").values) == [first for first, _ in PAIRS]
    assert list(read_texts(source, text_column=["premise", "hypothesis"]).values) == PAIRS


def test_a_missing_column_is_named_with_the_nearest_one(source):
    with pytest.raises(ValueError, match=r"`text_column`: no column 'premis' .*did you mean 'premise'"):
        read_texts(source, text_column="premis")
    with pytest.raises(ValueError, match="must say which column"):
        read_texts(source)
    with pytest.raises(ValueError, match="one column, or two for pairs"):
        read_texts(source, text_column=["premise", "hypothesis", "label"])


def test_a_single_column_of_strings_needs_no_name(tmp_path):
    TABLE[["label", "premise"]].to_parquet(tmp_path / "one.parquet")
    assert list(read_texts(tmp_path / "one.parquet").values) == [first for first, _ in PAIRS]


def test_a_text_file_is_one_text_a_line_without_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("first\n\n  \nsecond é\n", encoding="utf-8")
    assert list(read_texts(str(tmp_path / "a.txt")).values) == ["first", "second é"]
    with pytest.raises(ValueError, match="must be left out for a text file"):
        read_texts(tmp_path / "a.txt", text_column="text")


def test_unreadable_files_are_errors_that_name_them(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "bad.jsonl").write_text('{"a": ')
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "a.docx").write_bytes(b"")
    for name in ("bad.parquet", "bad.jsonl"):
        with pytest.raises(ValueError, match=f"`data`: .*{name}.* could not be read"):
            read_texts(tmp_path / name, text_column="a")
    with pytest.raises(ValueError, match="not UTF-8.*line 1:"):
        read_texts(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="must be a file of type"):
        read_texts(tmp_path / "a.docx")
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        read_texts(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match="there is a folder at"):
        read_texts(tmp_path)


def test_no_texts_and_things_that_are_no_texts_are_errors(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for data in ([], tmp_path / "empty.txt"):
        with pytest.raises(ValueError, match="at least one text"):
            read_texts(data)
    for bad in ([None], ["a", 3], [("a", None)], [("a", "b", "c")]):
        with pytest.raises(TypeError, match=r"must hold strings or pairs of strings.* in row"):
            read_texts(bad)
    with pytest.raises(ValueError, match="leave it out for a list"):
        read_texts(["a"], text_column="a")
    with pytest.raises(TypeError, match=r"one split of a dataset.*\['train'\]"):
        read_texts(datasets.DatasetDict(train=datasets.Dataset.from_dict({"a": ["b"]})))


def test_series_and_arrays_of_strings_are_texts():
    values = ["one", "two"]
    for data in (pd.Series(values), pd.Series(values, dtype=object), np.array(values), np.array(values, dtype=object)):
        assert is_texts(data)
        assert read_texts(data).values == values


def test_a_text_file_keeps_separators_within_a_line_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\u2028more\r\ntwo\x0cmore\n".encode())
    assert list(read_texts(tmp_path / "a.txt").values) == ["one\u2028more", "two\x0cmore"]


def test_a_missing_first_text_does_not_hide_the_column_of_texts(tmp_path):
    pd.DataFrame({"text": [None, "a"], "n": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match="in row 0: drop or fill"):
        read_texts(tmp_path / "a.parquet")


def test_texts_are_told_from_tensors():
    import torch

    assert is_texts(["a"])
    assert is_texts("file.txt")
    assert not is_texts(torch.zeros(2, 3, dtype=torch.long))
    assert not is_texts({"input_ids": [[1]]})


def test_rows_are_drawn_by_the_seed_alone_without_repetition():
    rows = draw_rows(100, 30, seed=5)
    assert len(set(rows.tolist())) == 30
    assert (rows == sorted(rows)).all()
    assert (rows == draw_rows(100, 30, seed=5)).all()
    assert (rows != draw_rows(100, 30, seed=6)).any()
    assert draw_rows(4, None, seed=0).tolist() == [0, 1, 2, 3]
    assert draw_rows(4, 9, seed=0).tolist() == [0, 1, 2, 3]
    for bad in (0, -1, 2.5, True, "5"):
        with pytest.raises(ValueError, match="`n_samples` must be"):
            draw_rows(4, bad, seed=0)


def test_the_fingerprint_tells_pairs_from_texts_and_orders():
    prints = {Texts(v, "").fingerprint() for v in (["a", "b"], [("a", "b")], ["b", "a"], ["ab"])}
    assert len(prints) == 4
    assert Texts(["a"], "x").fingerprint() == Texts(["a"], "y").fingerprint()
