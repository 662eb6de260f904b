"""``task=kernels`` once, and again: what is kept, what is tried again, what a death leaves."""

import signal
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from lra import sweep
from lra.config import Limits
from lra.errors import CellFailed
from lra.kernel_bench.runner import Runner
from lra.measurement.attempt import DeviceLost
from lra.results.schema import KernelRow
from lra.results.store import Store
from tests.lra.toy_op import ends


def test_finished_cases_are_kept_and_errors_tried_again(toy):
    config = toy("eager", "raising", lengths={"cpu": [4]})
    first = Runner(config).run()
    again = Runner(config).run()
    assert (first.n_new, again.n_new) == (1, 1)
    config = toy("eager", "wrong", "slow", lengths={"cpu": [4]})
    first = Runner(config).run()
    again = Runner(config).run()
    assert (first.n_new, again.n_new) == (1, 0)
    assert ends(again) == ends(first) and again.cases[0][1].samples == first.cases[0][1].samples
    longer = Runner(replace(config, lengths={"cpu": [4, 8]})).run()
    assert longer.n_new == 1
    # what is on record of the shorter one counts for the longer
    assert ends(longer)["slow", 8, "forward"].reason == "timeout at N=4 already"
    assert Runner(replace(config, rerun=True)).run().n_new == 1


def test_a_backend_that_killed_a_process_is_left_out(toy):
    config = toy("eager", "late", lengths={"cpu": [4]})
    runner = Runner(config)
    store = Store(config.results, "kernels_toy", KernelRow)
    store.folder.mkdir(parents=True)
    store.at_work(runner.name_of(runner.cases[0]), "late")
    assert store.died_at()["who"] == "late"
    outcome = runner.run()
    row = ends(outcome)["late", 4, "forward"]
    assert row.status == "error" and row.reason.startswith("it ended the process")
    assert ends(outcome)["eager", 4, "forward"].status == "ok"
    assert store.died_at() is None
    # that is an end: it is not tried again by itself
    assert Runner(config).run().n_new == 0
    forced = ends(Runner(replace(config, rerun=True)).run())
    assert "worn out" in forced["late", 4, "forward"].reason


def test_a_parent_says_how_a_process_ended(toy):
    config = toy("eager", "late", lengths={"cpu": [4]})
    runner = Runner(config)
    store = Store(config.results, "kernels_toy", KernelRow)
    store.folder.mkdir(parents=True)
    store.explain("oom", "nothing was at work")
    assert store.died_at() is None
    store.at_work(runner.name_of(runner.cases[0]), "late")
    store.explain("timeout", "did not end in time and was killed")
    row = ends(runner.run())["late", 4, "forward"]
    assert row.status == "timeout" and row.reason.startswith("did not end in time and was killed")


def test_only_a_death_leaves_a_note(toy):
    config = toy("eager")
    store = Store(config.results, "kernels_toy", KernelRow)
    store.folder.mkdir(parents=True)
    for error, left in ((KeyboardInterrupt(), False), (DeviceLost("gone"), True)):
        with pytest.raises(type(error)), store.watching():
            store.at_work("case", "eager")
            raise error
        assert (store.died_at() is not None) == left


def test_a_sweep_starts_again_behind_a_death_and_not_forever(tmp_path, monkeypatch):
    """Each child dies at another backend; the last one at the same as the one before."""
    deaths = ["a", "b", "c", "c", "never"]
    store, orders = Store(tmp_path, "kernels_toy", KernelRow), []
    store.folder.mkdir(parents=True)

    def run(cfg, changed):
        orders.append(cfg.rerun)
        Store(tmp_path, "kernels_toy", KernelRow).at_work("case", deaths[len(orders)])
        return -signal.SIGSEGV, False, ""

    monkeypatch.setattr(sweep, "_run", run)
    cfg = OmegaConf.create(
        {"op": {"name": "toy"}, "paths": {"results": str(tmp_path)}, "rerun": True}
    )
    store.at_work("case", deaths[0])
    assert sweep._go_on(cfg, [], (-signal.SIGSEGV, False, "")) == (-signal.SIGSEGV, False, "")
    assert orders == [False, False, False]


def test_what_hangs_gets_its_row_in_the_same_sweep(tmp_path, monkeypatch):
    """The child behind the one that was killed finishes the case and begins no other."""
    store, found = Store(tmp_path, "kernels_toy", KernelRow), []
    store.folder.mkdir(parents=True)

    def run(cfg, changed):
        store.bury()
        found.append((cfg.limits.time_s, store.read("case").killers))
        return 1, False, ""

    monkeypatch.setattr(sweep, "_run", run)
    cfg = OmegaConf.create(
        {"op": {"name": "toy"}, "paths": {"results": str(tmp_path)}, "limits": {"time_s": 60.0}}
    )
    store.at_work("case", "hangs")
    assert sweep._go_on(cfg, [], (-9, True, "")) == (1, False, "")
    ((time_s, killers),) = found
    assert time_s < 5 and killers["hangs"][0] == "timeout" and cfg.limits.time_s == 60


def test_a_time_limit_ends_between_cases(toy):
    config = toy("eager", limits=Limits(time_s=1e-9))
    with pytest.raises(CellFailed) as caught:
        Runner(config).run()
    assert (caught.value.status, caught.value.exit_code) == ("timeout", 1)
    assert Runner(replace(config, limits=Limits())).run().n_new == 2
