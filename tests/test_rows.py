"Rows come in any form: what is read is all there, and what can't be read is one error of ours"
import gzip
import json
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from aligners_nb.criterion import COLUMNS, Criterion, DataError, criteria, criterion_of
from aligners_nb.rows import as_dicts, as_rows, check_rows, describe, how_made, read_rows, rows_and_criterion

civil = Criterion("civil", ["Be polite."])
ROW = dict(id="0", criterion="civil", topic="t", question_type="u", question="When?", response="At nine, fool.",
           critique="It insults.", correction="At nine.")
ROWS = [ROW, dict(ROW, id="007", question='Where, "exactly"?\nAnd when?', response="NA", correction="Là, à la gare.")]
CHAT = [dict(ROW, question=[dict(role="user", content="When?")])]
LINES = "".join(json.dumps(row)+"\n" for row in ROWS)


def write(path, kind, rows):
    "`rows` in a file of one of the formats"
    frame = pd.DataFrame(rows)
    if kind == "jsonl": path.write_text("".join(json.dumps(row)+"\n" for row in rows))
    if kind == "json": path.write_text(json.dumps(rows, indent=1))
    if kind == "csv": frame.to_csv(path, index=False)
    if kind == "tsv": frame.to_csv(path, index=False, sep="\t")
    if kind == "parquet": Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_file_gives_back_what_was_written(tmp_path, kind):
    path = write(tmp_path/f"rows.{kind}", kind, ROWS)
    packed = tmp_path/f"rows.{kind}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    upper = tmp_path/f"ROWS.{kind.upper()}"
    upper.write_bytes(path.read_bytes())
    for file in (path, str(path), packed, upper):
        assert read_rows(file) == as_dicts(file) == check_rows(file) == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_messages_are_read(tmp_path, kind):
    assert check_rows(write(tmp_path/f"rows.{kind}", kind, CHAT)) == CHAT


TEXTS = {"bom.jsonl": "\ufeff"+LINES, "blank.jsonl": "\n"+LINES.replace("\n", "\n\n"),
         "mac.jsonl": LINES.replace("\n", "\r"), "windows.jsonl": LINES.replace("\n", "\r\n"),
         "unended.jsonl": LINES[:-1], "lines.json": LINES, "list.jsonl": json.dumps(ROWS),
         "separator.jsonl": LINES.replace("When?", "When?\u2028")}


@pytest.mark.parametrize("name", TEXTS)
def test_json_from_other_programs(tmp_path, name):
    (tmp_path/name).write_bytes(TEXTS[name].encode())
    found = read_rows(tmp_path/name)
    assert [row["correction"] for row in found] == [row["correction"] for row in ROWS]


def test_csv_from_other_programs(tmp_path):
    path = tmp_path/"rows.csv"
    for text in ("\ufeffquestion,response\r\nWhen?,At nine.\r\n", "question,response\rWhen?,At nine.\r",
                 "question,response\n\nWhen?,At nine.\n\n", 'question,response\n"When?","At nine."'):
        path.write_bytes(text.encode())
        assert read_rows(path) == [dict(question="When?", response="At nine.")]
    path.write_text("question,response,note\nWhen?,At nine.\n")
    assert read_rows(path) == [dict(question="When?", response="At nine.", note="")]
    path.write_text("question,response\n")
    assert read_rows(path) == []


BAD = {"torn.jsonl": (b'{"question": "When?"}\n{"question": "Whe', "line 2"),
       "bare.jsonl": (b'{"question": "When?"}\n7\n', "row 1 of .* is 7"),
       "dict.json": (b'{\n"rows": []\n}', "line 1"),
       "list.json": (b'[{"question": "When?"}, ', "can't be read as json"),
       "latin.jsonl": ('{"question": "Où?"}'.encode("latin-1"), "no UTF-8"),
       "latin.csv": ("question\nOù?\n".encode("latin-1"), "no UTF-8"),
       "twice.jsonl": (b'{"response": "At nine.", "response": "At ten."}', "two columns are called 'response'"),
       "twice.csv": (b"question,response,response\nWhen?,At nine.,At ten.\n", "two columns are called 'response'"),
       "long.csv": (b"question,response\nWhen?,At nine, or ten.\n", "Expected 2 fields in line 2"),
       "open.csv": (b'question,response\nWhen?,"At nine.\n', "can't be read as csv"),
       "empty.csv": (b"", "can't be read as csv"),
       "text.parquet": (b"When?", "can't be read as parquet"),
       "text.csv.gz": (b"question\nWhen?\n", "can't be read as csv"),
       "torn.csv.gz": (gzip.compress(b"question\nWhen?\n"*99)[:-20], "can't be read as csv"),
       "rows.xlsx": (b"When?", "is none of these"),
       "rows.gz": (b"When?", "is none of these"),
       "rows": (b"When?", "is none of these")}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_can_not_be_read_says_why(tmp_path, name):
    content, why = BAD[name]
    (tmp_path/name).write_bytes(content)
    with pytest.raises(DataError, match=why) as error:
        read_rows(tmp_path/name)
    assert name in str(error.value) and "delete" not in str(error.value)


def test_where_no_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path/"rows.csv", "csv", ROWS)
    assert read_rows("~/rows.csv") == ROWS
    for path in (tmp_path, tmp_path/"nowhere.csv", "When?", ""):
        with pytest.raises(DataError, match="rows are a list of dicts.*there is no file"):
            as_dicts(path)


def test_every_form_gives_the_same():
    frame, dataset = pd.DataFrame(ROWS), Dataset.from_list(ROWS)
    for form in (ROWS, tuple(ROWS), iter(ROWS), (row for row in ROWS), dataset, dataset.to_iterable_dataset(), frame,
                 frame.set_index("id", drop=False), frame.sample(frac=1, random_state=0).sort_index()):
        assert as_dicts(form) == ROWS
    assert as_dicts([]) == as_dicts(frame.head(0)) == []
    assert as_dicts(pd.DataFrame(CHAT)) == CHAT


def test_a_missing_value_of_a_frame_is_none():
    frame = pd.DataFrame([ROW, dict(ROW, correction=None), dict(ROW, correction=np.nan)])
    assert [row["correction"] for row in as_dicts(frame)] == ["At nine.", None, None]
    with pytest.raises(DataError, match="row 1 has no correction, only id, criterion"):
        check_rows(frame)
    twice = pd.DataFrame([["When?", "At nine.", "At ten."]], columns=["question", "response", "response"])
    with pytest.raises(DataError, match="two columns are called 'response'"):
        as_dicts(twice)


SPLITS = DatasetDict(train=Dataset.from_list(ROWS))


@pytest.mark.parametrize("rows, why", [
    (None, "got NoneType with None"), (7, "got int"), ([1, 2], "got list with 1"), (b"When?", "got bytes"),
    (ROW, "in brackets"), (SPLITS, r"with train.*rows\['train'\]")])
def test_what_is_no_rows(rows, why):
    with pytest.raises(TypeError, match="rows are a list of dicts, a data set, a data frame or a file.*"+why):
        as_dicts(rows)


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), 5, ["At nine."]])
@pytest.mark.parametrize("column", ["response", "correction"])
def test_the_first_row_that_falls_short_is_named(column, value):
    with pytest.raises(DataError, match=f"row 1 has (no )?{column}"):
        check_rows([ROW, dict(ROW, **{column: value}), {}])


def test_a_question_is_a_text_or_messages():
    assert check_rows(CHAT) == CHAT
    for question in (5, [], [5], [dict(role="user")], float("nan")):
        with pytest.raises(DataError, match="row 1"):
            check_rows([ROW, dict(ROW, question=question)])


def test_only_what_is_needed_is_asked_for():
    pair = [dict(question="When?", response="At nine.")]
    assert check_rows(pair, ("question", "response")) == pair
    with pytest.raises(DataError, match="row 0 has no correction, only question, response: rows need question, respon"):
        check_rows(pair)
    with pytest.raises(DataError, match="row 0 has no question, only nothing"):
        check_rows([{}])


def test_rows_and_a_criterion_belong_together(tmp_path):
    dataset = as_rows(ROWS, civil)
    assert rows_and_criterion(dataset) == (civil, ROWS)
    path = write(tmp_path/"rows.parquet", "parquet", ROWS)
    for form in (ROWS, iter(ROWS), pd.DataFrame(ROWS), path, dataset):
        assert rows_and_criterion(form, civil) == (civil, ROWS)
    built_in = [dict(row, criterion="ethical", question_type="cooking") for row in ROWS]
    for form in (built_in, iter(built_in), pd.DataFrame(built_in)):
        assert rows_and_criterion(form) == (criteria.ethical, built_in)
    with pytest.raises(DataError, match="pass criterion="):
        rows_and_criterion(ROWS)
    with pytest.raises(DataError, match="about 'civil', and criterion is"):
        rows_and_criterion(ROWS, criteria.ethical)
    with pytest.raises(TypeError, match="such as town.ethical; got 'civil'"):
        rows_and_criterion(ROWS, "civil")


def test_a_data_set_says_what_it_is_about():
    made = dict(llm="scribe", seed=3)
    dataset = as_rows([dict(row, note="mine") for row in ROWS], civil, made)
    assert dataset.column_names == COLUMNS and dataset.to_list() == ROWS
    for form in (dataset, dataset.select([1]), dataset.shuffle(seed=0)):
        assert criterion_of(form) == civil and how_made(form) == made
    assert how_made(as_rows(ROWS, civil)) == how_made(Dataset.from_list(ROWS)) == how_made(ROWS) == {}
    empty = as_rows([], civil, made)
    assert (len(empty), empty.column_names, criterion_of(empty)) == (0, COLUMNS, civil)
    assert as_rows(CHAT, civil).to_list() == CHAT
    assert how_made(describe(Dataset.from_list(ROWS), civil, made)) == made
