"""Reading the official files: what is right is read as written, what is wrong is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lra.data.listops_trees import OFFICIAL
from lra.data.listops_tsv import read_trees
from lra.errors import UserError

HEADER = b"Source\tTarget\r\n"
ROW = b"( ( ( [MIN 2 ) 9 ) ] )\t2\r\n"
NESTED = b"( ( ( ( ( [MAX 4 ) ( ( ( [MIN 2 ) 9 ) ] ) ) 0 ) ] ) )\t4\r\n"


def read(path, content, *, limit=100, max_length=100, names=OFFICIAL):
    path.write_bytes(content)
    return list(read_trees(path, limit, max_length, names))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "basic_val.tsv"


def test_the_ids_are_the_documented_ones(path):
    ((tokens, lengths, labels),) = read(path, HEADER + ROW + NESTED)
    assert tokens.tolist() == [11, 3, 10, 15, 12, 5, 11, 3, 10, 15, 1, 15]
    assert lengths.tolist() == [4, 8] and labels.tolist() == [2, 4]
    everything = b"[MED [SM 0 1 2 ] [FIRST 3 4 ] [LAST 5 6 ] 7 8 9 ]\t5\n"
    ((tokens, _, _),) = read(path, HEADER + everything, names=("FIRST", "LAST"))
    wanted = [13, 14, 1, 2, 3, 15, 17, 4, 5, 15, 18, 6, 7, 15, 8, 9, 10, 15]
    assert tokens.tolist() == wanted


@pytest.mark.parametrize(
    "content",
    [
        HEADER + NESTED,
        (HEADER + NESTED).replace(b"\r\n", b"\n"),
        (HEADER + NESTED).rstrip(b"\r\n"),
        HEADER + NESTED.translate(None, b"()"),
    ],
    ids=["crlf", "lf", "no last line end", "no parentheses"],
)
def test_line_ends_and_parentheses_carry_nothing(path, content):
    ((tokens, _, labels),) = read(path, content)
    assert tokens.tolist() == [12, 5, 11, 3, 10, 15, 1, 15] and labels.tolist() == [4]


def test_limits_cut_rows_and_tokens(path):
    parts = read(path, HEADER + ROW * 2500, limit=2001, max_length=3)
    assert [len(part.labels) for part in parts] == [1000, 1000, 1]
    assert set(np.concatenate([part.lengths for part in parts])) == {3}
    assert parts[2].tokens.tolist() == [11, 3, 10]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "the file is empty"),
        (HEADER, "no rows"),
        (ROW, "line 1: the header must be"),
        (b"\xef\xbb\xbf" + HEADER + ROW, "line 1: the header must be"),
        (b"Source,Target\n" + ROW, "line 1: the header must be"),
        (HEADER + ROW + b"[MIN 2 9 ]\n", "line 3: 1 columns"),
        (HEADER + ROW + b"[MIN 2 9 ]\t2\t2\n", "line 3: 3 columns"),
        (HEADER + ROW + b"\n" + ROW, "line 3: 1 columns"),
        (HEADER + ROW + b"[MIN 2 9 ]\t12\n", "line 3: the value must be a digit, not '12'"),
        (HEADER + ROW + b"[MIN 2 9 ]\t", "line 3: the value must be a digit, not ''"),
        (HEADER + ROW + b"[MIN 2 9 ]\t2.0\n", "line 3: the value must be a digit, not '2.0'"),
        (HEADER + ROW + ROW[:-10], "line 3: 1 columns"),
        (HEADER + ROW + b"[MIN 2 9\t2\n", "line 3: brackets do not match"),
        (HEADER + ROW + b"\t2\n", "line 3: the tree is empty"),
        (HEADER + ROW + b"[MIN 2 10 ]\t2\n", "line 3: unknown token '10'"),
        (HEADER + ROW + b"[MEAN 2 9 ]\t2\n", "line 3: unknown token '.MEAN'"),
        (HEADER + ROW + b"[FIRST 2 9 ]\t2\n", "line 3: unknown token '.FIRST'"),
        (HEADER + ROW + b"[MIN 2 \xff9 ]\t2\n", "line 3: not UTF-8"),
        (HEADER + ROW + b"[MIN 2 9 ]\t\xe9\n", "line 3: not UTF-8"),
        (HEADER + ROW + b"\xff\xfe\n", "line 3: not UTF-8"),
        (HEADER + ROW + b"\xff[MIN 2 9\t2\n", "line 3: not UTF-8"),
    ],
)
def test_a_broken_file_names_file_and_line(path, content, says):
    with pytest.raises(UserError, match=f"^{path}.*{says}"):
        read(path, content)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        list(read_trees(tmp_path, 1, 1, OFFICIAL))


def test_an_endless_line_is_not_read_into_memory():
    with pytest.raises(UserError, match="line 1: too long"):
        list(read_trees(Path("/dev/zero"), 1, 1, OFFICIAL))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_anything_but_a_user_error(path, data):
    content = bytearray(HEADER + NESTED + ROW)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["cut", "change", "insert"])):
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "change":
                content[at] = data.draw(st.integers(0, 255))
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=5))
        if not content:
            break
    try:
        parts = read(path, bytes(content))
    except UserError as error:
        assert str(error).startswith(str(path))
        return
    for tokens, lengths, labels in parts:
        assert lengths.min() > 0 and lengths.sum() == len(tokens)
        assert set(tokens.tolist()) <= set(range(1, 16)) and labels.max() <= 9
