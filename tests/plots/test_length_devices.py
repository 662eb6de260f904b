"""Devices are compared system by system, however their series are named and whatever is fastest."""

import csv
import io
from dataclasses import replace

import pytest

from plots import length_devices
from plots.length_entries import views

SDPA = {"family": "exact", "backend": "attention=sdpa"}


@pytest.fixture
def write(tmp_path):
    """A function that writes the table of rows: its text without line breaks, and its records."""

    def written(rows):
        markdown, _, tidy = length_devices.write(views(rows), tmp_path)
        records = list(csv.DictReader(io.StringIO(tidy.read_text())))
        return " ".join(markdown.read_text().split()), records

    return written


def on_gpu(rows, **changes):
    return [replace(row, device="GPU", **changes) for row in rows]


def times(records, model, length="512"):
    return {
        r["device"]: float(r["median_ms"]) for r in records
        if (r["model"], r["length"]) == (model, length)
    }  # fmt: skip


def test_the_fastest_backend_of_each_device_counts(make_lengths, write):
    eager = make_lengths("s4", backend="scan=eager", median_ms=8.0)
    slow = make_lengths("s4", backend="scan=reference", median_ms=9.0)
    slow += make_lengths("s4", backend="scan=compile", median_ms=9.5)
    # on the other device a single backend: its curve has another name
    found = write([*eager, *slow, *on_gpu(eager, backend="scan=triton", median_ms=1.0)])[1]
    assert times(found, "s4") == {"GPU": 1.0, "Some CPU": 8.0}
    assert {r["backend"] for r in found} == {"scan=triton", "scan=eager"}
    reverse = write([*slow, *eager, *on_gpu(eager)])[1]
    assert times(reverse, "s4") == {"GPU": 8.0, "Some CPU": 8.0}


def test_knobs_variants_and_kinds_of_attention_are_never_mixed(make_lengths, write):
    cpu = make_lengths("performer", mixer_knobs='{"m": 64}') + make_lengths("transformer", **SDPA)
    gpu = make_lengths("performer", mixer_knobs='{"m": 256}')
    gpu += make_lengths("transformer", family="exact", backend="attention=reference")
    gpu += make_lengths("performer", mixer_knobs='{"m": 64}', variant="recipe.positions=rope")
    assert length_devices.compared(views([*cpu, *on_gpu(gpu)])) == []
    same = make_lengths("luna")
    text, records = write([*cpu, *same, *on_gpu(gpu), *on_gpu(same)])
    assert {r["model"] for r in records} == {"luna"}
    said = text.partition("Nowhere timed on two of them at one length: ")[2].partition(". ")[0]
    assert set(said.rstrip(".").split("; ")) == {
        "performer m=64 (Some CPU)", "performer m=256 (GPU)", "transformer fused (Some CPU)",
        "transformer naive (GPU)", "performer m=64 recipe.positions=rope (GPU)",
    }  # fmt: skip


def test_threads_samples_dates_and_disguises_are_named(make_lengths, write):
    rows = make_lengths("bigbird", date="2026-11-21T10:00:00Z", degenerate=lambda n: n == 256)
    text, _ = write([*rows, *on_gpu(rows, n_threads=8, n_samples=5, date="2026-11-23T10:00:00Z")])
    assert "Some CPU: 2 threads; n = 25; 2026-11-21." in text
    assert "GPU: 8 threads; n = 5; 2026-11-23." in text
    assert "protocol laptop" in text
    assert "bigbird, N=256 †" in text and "bigbird, N=512 |" in text
    assert "† dense softmax attention at this length." in text
