"""The state of decoders in the table against length."""

import csv
import io

import pytest

from plots import lengths_table
from plots.length_entries import views
from plots.states import state_table

LONG = (256, 512, 1024, 2048, 4096, 8192)


@pytest.fixture
def rows(make_lengths):
    """A cache, a ring that is full at 1024, a constant state, and one that does not decode."""
    more = {"pass_": "decode", "level": "mixer", "causal": True, "lengths": LONG, "gflop": 3e-3}
    rows = make_lengths("transformer", family="exact", backend="attention=sdpa",
                        state_mib=lambda n: n / 1024, **more)  # fmt: skip
    rows += make_lengths("sliding_window_attention", family="sparse",
                         state_mib=lambda n: min(n, 1024) / 1024, **more)  # fmt: skip
    rows += make_lengths("s4", family="ssm", state_mib=1 / 64, **more)
    return rows + make_lengths("bigbird", family="sparse", status="unsupported", median_ms=None,
                               state_mib=None, **more)  # fmt: skip


def test_the_state_stands_beside_its_growth(rows):
    (view,) = views(rows)
    table = state_table(view)
    assert list(table.header) == [
        "model", "state, KiB, N=256", "state, KiB, N=8K", "growth of the state",
        "ms a token, N=256", "ms a token, N=8K", "MFLOP a token, N=8K",
    ]  # fmt: skip
    found = {row[0]: list(row[1:]) for row in table.rows}
    assert found["transformer"][:3] == ["256.0", "8,192.0", "1.00 (1.00 to 1.00)"]
    assert found["sliding_window_attention"][:3] == ["256.0", "1,024.0", "0.00 (0.00 to 0.00)"]
    assert found["s4"] == ["16.0", "16.0", "0.00 (0.00 to 0.00)", "2.560", "81.920", "3.000"]
    assert "bigbird" not in found and "Without a state: bigbird." in table.notes


def test_a_state_is_of_one_sequence(make_lengths):
    rows = make_lengths("s4", pass_="decode", level="mixer", causal=True, batch=4, state_mib=1.0)
    (view,) = views(rows)
    assert state_table(view).rows[0][1] == "256.0"


def test_a_pack_of_decoders_makes_the_table_alone(rows, tmp_path):
    written = lengths_table.write(views(rows), {}, tmp_path)
    assert [path.name for path in written] == [
        f"lengths_table_mixer_float32_laptop_b1d64h2l2_decode.{kind}"
        for kind in ("md", "tex", "csv")
    ]
    assert written[0].read_text().startswith("### State beside the length N, protocol laptop")
    records = list(csv.DictReader(io.StringIO(written[2].read_text())))
    sizes = {(r["model"], r["first_length"]): float(r["value"]) for r in records
             if r["quantity"] == "state in MiB"}  # fmt: skip
    assert sizes["transformer", "8192"] == 8.0 and len(sizes) == 3 * len(LONG)
    (power,) = (r for r in records if (r["model"], r["quantity"]) == ("s4", "exponent of state"))
    assert (power["answer"], float(power["value"])) == ("exponent", 0.0)


def test_decoders_are_apart_from_the_other_passes_whatever_those_see(rows, make_lengths, tmp_path):
    for causal in (True, False):
        rows += make_lengths("performer", level="mixer", causal=causal, lengths=LONG)
    growth, causal, decoding = views(rows)
    assert [one.name for one in growth.series] == [one.name for one in causal.series]
    assert decoding.passes == ["decode"] and "performer" not in str(decoding.series)
    texts = [
        f.read_text() for f in lengths_table.write(views(rows), {}, tmp_path) if f.suffix == ".md"
    ]
    assert [text.split(",")[0] for text in texts] == [
        "### Growth with the length N", "### Growth with the length N",
        "### State beside the length N",
    ]  # fmt: skip


def test_a_pack_without_a_state_makes_no_table(make_lengths, tmp_path):
    rows = make_lengths("performer", pass_="decode", level="mixer", causal=True, state_mib=None)
    assert lengths_table.write(views(rows), {}, tmp_path) == []
