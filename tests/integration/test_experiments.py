"""`maskx experiments`: grids of a script that takes no time to train, and one real cell."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from detectron2.data.datasets import register_coco_instances

from maskx_d2 import cli, engine
from maskx_d2.data import register_partial
from maskx_d2.experiments import cell_files, cpu_slots, gpu_slots, load_grid, run_cells
from maskx_d2.splits import shapes_a27b9

# In place of train_net.py: four iterations, of which a resumed run does what is missing.
FAKE = """
import json, os, pathlib, sys, time

assert sys.argv[1] == "--config-file" and sys.argv[3] == "--resume"
opts = dict(zip(sys.argv[4::2], sys.argv[5::2]))
out = pathlib.Path(opts["OUTPUT_DIR"])
start = {"pid": os.getpid(), "time": time.time(), "weights": opts.get("MODEL.WEIGHTS")}
start |= {k: os.getenv(k) for k in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
with open(out / "starts.jsonl", "a") as file:
    print(json.dumps(start), file=file)
if "MODEL.WEIGHTS" in opts:
    assert pathlib.Path(opts["MODEL.WEIGHTS"]).read_text() == "3"
if pathlib.Path(opts.get("FAIL_IF", "nowhere")).exists():
    sys.exit("something is wrong")
(out / "config.yaml").write_text("SOLVER:\\n  MAX_ITER: 4\\n")
with open(out / "metrics.json", "a") as file:
    checkpoint = out / "model_final.pth"
    done = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 0
    for iteration in range(done, 4):
        time.sleep(float(opts.get("SECONDS", 0.01)))
        print(json.dumps({"iteration": iteration, "loss": 1.0}), file=file, flush=True)
        checkpoint.write_text(str(iteration))
        (out / "last_checkpoint").write_text(checkpoint.name)
    if "EVALUATES" not in opts:
        print(json.dumps({"segm_B/AP": 10.0 + int(opts["SEED"]), "iteration": 4}), file=file)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "train.py").write_text(FAKE)
    (tmp_path / "a.yaml").write_text("SEED: 1\n")
    return tmp_path


def grid(**changes):
    said = {
        "output": "out",
        "seeds": [1, 2],
        "command": ["python", "train.py"],
        "methods": {"m": {"config": "a.yaml"}},
        "table": {"columns": {"mask AP, B": "segm_B/AP"}},
    }
    with open("grid.yaml", "w") as file:
        yaml.safe_dump({**said, **changes}, file, sort_keys=False)
    return load_grid("grid.yaml")


def run(grid, slots=None, only=None):
    return run_cells(grid.select(only), slots or cpu_slots(1), grid.columns)


def starts(cell):
    path = cell.folder / "starts.jsonl"
    return [json.loads(s) for s in path.read_text().splitlines()] if path.exists() else []


def test_runs_what_is_not_done_and_tries_again_what_failed(folder, capfd):
    (folder / "broken").touch()
    methods = {
        "good": {"config": "a.yaml"},
        "bad": {"config": "a.yaml", "opts": ["FAIL_IF", "broken"]},
    }
    g = grid(methods=methods)
    assert run(g) == 2
    said = capfd.readouterr().out
    assert re.search(r"good/seed1: finished after 00:0\d: mask AP, B 11\.00", said)
    assert re.search(r"bad/seed2: FAILED, ended with exit status 1 after .* ends: someth", said)
    failed = cell_files.read_json(folder / "out/bad/seed1/failed.json")
    assert (failed["exit_code"], failed["log"][-1]) == (1, "something is wrong")
    assert cell_files.read_json(folder / "out/good/seed2/done.json")["metrics"] == {"segm_B/AP": 12}

    (folder / "broken").unlink()
    assert run(g) == 0
    assert "2 of 4 cells are done already" in capfd.readouterr().out
    assert [len(starts(cell)) for cell in g.cells] == [1, 1, 2, 2]
    assert not (folder / "out/bad/seed1/failed.json").exists()


def test_a_shared_run_is_trained_once_and_first(folder, capfd):
    g = grid(
        splits={"x": [], "y": []},
        shared={"detector": {"config": "a.yaml", "opts": ["EVALUATES", "no"], "per": []}},
        methods={"m": {"config": "a.yaml", "after": "detector"}},
    )
    assert run(g, cpu_slots(3), only="x/") == 0
    assert run(g, cpu_slots(3)) == 0
    (detector,) = g.shared
    assert len(starts(detector)) == 1
    assert all(
        [s["weights"] for s in starts(c)] == ["out/shared/detector/seed1/model_final.pth"]
        for c in g.cells
    )
    # Deleted to save disk, and missed when another method comes.
    (detector.folder / "model_final.pth").unlink()
    methods = {name: {"config": "a.yaml", "after": "detector"} for name in ("m", "n")}
    shared = {"detector": {"config": "a.yaml", "opts": ["EVALUATES", "no"], "per": []}}
    capfd.readouterr()
    assert run(grid(splits={"x": []}, shared=shared, methods=methods)) == 2, "of two seeds"
    said = capfd.readouterr().out
    assert "can't start: the checkpoint of shared/detector/seed1 is gone; delete the folder" in said


def test_what_comes_after_a_failed_run_is_skipped(folder, capfd):
    (folder / "broken").touch()
    shared = {"detector": {"config": "a.yaml", "opts": ["FAIL_IF", "broken"], "per": ["seed"]}}
    methods = {"m": {"config": "a.yaml", "after": "detector"}, "n": {"config": "a.yaml"}}
    g = grid(shared=shared, methods=methods)
    assert run(g) == 4
    said = capfd.readouterr().out
    assert "m/seed1: skipped, because shared/detector/seed1 has failed" in said
    assert [cell_files.state(cell) for cell in g.cells] == ["new", "new", "done", "done"]


def test_a_run_without_the_metrics_has_failed(folder, capfd):
    assert run(grid(common=["EVALUATES", "no"])) == 2
    assert "left no segm_B/AP in metrics.json" in capfd.readouterr().out


def test_a_command_that_does_not_exist(folder, capfd):
    assert run(grid(command=["no-such-command"])) == 2
    assert "no-such-command can't be started (No such file" in capfd.readouterr().out


def test_a_full_disk_is_one_sentence_and_the_next_call_goes_on(folder, monkeypatch, capfd):
    grid()

    def full(cell, metrics):
        raise OSError(28, "No space left on device", str(cell.folder / "done.json"))

    with monkeypatch.context() as patched:
        patched.setattr(cell_files, "record_done", full)
        assert cli.main(["experiments", "run", "grid.yaml"]) == 1
    err = capfd.readouterr().err
    assert "No space left on device" in err and "the same command goes on from here." in err
    assert "Traceback" not in err
    assert cli.main(["experiments", "run", "grid.yaml"]) == 0


def test_workers_run_side_by_side_each_with_its_own_device_and_threads(capfd):
    cores = len(os.sched_getaffinity(0))
    g = grid(common=["SECONDS", 0.2])
    assert run(g, gpu_slots(["3", "5"])) == 0
    first, second = (starts(cell)[0] for cell in g.cells)
    assert abs(first["time"] - second["time"]) < 0.8
    assert {first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]} == {"3", "5"}
    assert first["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert cpu_slots(4 * cores)[0].environment == {"OMP_NUM_THREADS": "1"}


def test_other_settings_are_refused_and_named(folder):
    run(grid(common=["A", 1, "B", 2]), only="seed1")
    for changes, message in (
        ({"common": ["A", 1, "B", 3]}, r"'m/seed1' was started with other.*opts was 2, now 3; ch"),
        ({"common": ["A", 1]}, "opts was B 2, now without that; choose another output, or delete"),
        ({"command": ["python", "-u", "train.py"]}, "command was without that, now -u;"),
    ):
        with pytest.raises(ValueError, match=message):
            run(grid(**{"common": ["A", 1, "B", 2], **changes}))
    assert not (folder / "out/m/seed2").exists(), "nothing is started"
    (folder / "a.yaml").write_text("SEED: 2\n")
    with pytest.raises(ValueError, match=r"config file 'a\.yaml' or one below it has changed"):
        run(grid(common=["A", 1, "B", 2]))


def test_a_changed_shared_run_is_named_by_what_came_after_it(folder):
    changes = {
        "shared": {"detector": {"config": "a.yaml", "per": []}},
        "methods": {"m": {"config": "a.yaml", "after": "detector"}},
    }
    g = grid(**changes)
    assert run(g, cpu_slots(2)) == 0
    changes["shared"]["detector"]["opts"] = ["A", 1]
    with pytest.raises(ValueError, match=r"cell 'm/seed1' .* after: opts .*, now A 1"):
        cell_files.check_settings(grid(**changes).cells)


def test_a_typing_error_can_be_corrected_but_foreign_folders_are_left_alone(folder):
    (folder / "broken").touch()
    assert run(grid(common=["FAIL_IF", "broken"]), only="seed1") == 1
    assert run(grid(), only="seed1") == 0, "nothing had been trained with the other settings"
    (folder / "out/m/seed2").mkdir()
    (folder / "out/m/seed2/model.pth").touch()
    with pytest.raises(ValueError, match="'m/seed2' holds something that is not of this grid"):
        run(grid())


def in_a_process(g, slots):
    """A runner that can be killed, as soon as its cells have reached an iteration."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(g, slots))
    process.start()
    deadline = time.time() + 60
    while not all((cell.folder / "last_checkpoint").exists() for cell in g.cells):
        assert time.time() < deadline
        time.sleep(0.02)
    return process


def test_after_kill_9_a_training_that_lives_on_is_waited_for(capfd):
    g = grid(common=["SECONDS", 0.3])
    process = in_a_process(g, cpu_slots(2))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    pids = [starts(cell)[0]["pid"] for cell in g.cells]
    os.killpg(pids[0], signal.SIGKILL)  # this one does not live on
    assert cell_files.holder(g.cells[1]) is not None
    assert run(g, cpu_slots(1)) == 0
    said = capfd.readouterr().out
    assert "m/seed2: is being run by another process on" in said
    assert "m/seed1: goes on on" in said
    for cell in g.cells:
        lines = (cell.folder / "metrics.json").read_text().splitlines()
        iterations = [json.loads(line)["iteration"] for line in lines if "loss" in line]
        assert iterations == [0, 1, 2, 3], "no iteration was done twice"
    assert starts(g.cells[0])[1]["time"] > starts(g.cells[1])[0]["time"] + 0.6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_the_next_call_goes_on(number, capfd):
    g = grid(common=["SECONDS", 0.4])
    before = signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
    try:
        process = in_a_process(g, cpu_slots(2))
    finally:
        signal.signal(number, before)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 128 + number
    assert f"Stopped by {number.name}; the same command goes on." in capfd.readouterr().out
    for cell in g.cells:
        with pytest.raises(ProcessLookupError):
            os.kill(starts(cell)[0]["pid"], 0)
        assert (cell_files.state(cell), cell_files.holder(cell)) == ("started", None)
        assert 0 < cell_files.progress(cell.folder) <= 1
    assert run(g, cpu_slots(2)) == 0


def shapes_grid(folder, *overrides):
    """The example grid, shortened to two iterations."""
    text = (REPOSITORY / "configs" / "grids" / "shapes.yaml").read_text()
    said = yaml.safe_load(text.replace("train.max_iter=800", "train.max_iter=2"))
    said["common"] += ["train.max_iter=2", "train.log_period=1", "optimizer.lr=0.0001"]
    said["common"] += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    said["common"] += overrides
    said["output"], said["seeds"] = str(folder / "out"), [5]
    path = folder / "shapes.yaml"
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    return path


def test_a_real_cell_from_the_command_line(shapes, folder, monkeypatch, capfd):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, only = str(shapes_grid(folder)), ["--only", "end-to-end transfer/"]
    assert cli.main(["experiments", "run", path, *only, "--dry-run"]) == 0
    assert "end-to-end transfer/seed5 (new)\n" in capfd.readouterr().out
    assert cli.main(["experiments", "run", path, *only]) == 0
    assert "end-to-end transfer/seed5: finished" in capfd.readouterr().out
    log = (folder / "out/end-to-end_transfer/seed5/stdout.log").read_text()
    assert "Evaluation by split 'a27b9'" in log
    assert cell_files.progress(folder / "out/end-to-end_transfer/seed5") == 1
    assert cli.main(["experiments", "run", path, *only]) == 0
    assert "1 of 1 cells are done already" in capfd.readouterr().out

    assert cli.main(["experiments", "table", path]) == 0
    table = capfd.readouterr().out
    assert re.search(r"\| end-to-end transfer +\| +\S+ \(1\) \|", table)
    methods = len(yaml.safe_load(Path(path).read_text())["methods"])
    assert f"{methods - 1} of {methods} cells are missing." in table
    assert (folder / "out/results.png").exists()


@pytest.fixture
def one_thread():
    """Where all cores are busy, two threads that wait for each other are slower by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("no_registration_left", "one_thread")
def test_stage_wise_cells_start_from_the_detector(shapes, folder, monkeypatch):
    # In this process, because starting others costs the most.
    monkeypatch.chdir(REPOSITORY)
    for part in ("train", "test"):
        json_file = shapes / "shapes" / "annotations" / f"instances_{part}.json"
        images = shapes / "shapes" / part
        register_coco_instances(f"tiny_{part}", {}, str(json_file), str(images))
        register_partial(
            f"tiny_{part}_a27b9",
            base=f"tiny_{part}",
            split=shapes_a27b9,
            keep_masks=part == "test",
        )
    names = [f"dataloader.{part}.dataset.names=tiny_{part}_a27b9" for part in ("train", "test")]
    detector, stage_2 = load_grid(shapes_grid(folder, *names)).select("transfer cls/")
    engine.run(detector.command_line()[3:])
    checkpoint = cell_files.final_checkpoint(detector.folder)
    assert "bbox_B/AP" in cell_files.final_metrics(detector.folder, [])
    engine.run(stage_2.command_line(str(checkpoint))[3:])
    assert "segm_B/AP" in cell_files.final_metrics(stage_2.folder, ["segm_B/AP"])
    before, after = (
        torch.load(cell_files.final_checkpoint(c.folder), weights_only=False)["model"]
        for c in (detector, stage_2)
    )
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert any(key.startswith("roi_heads.mask_head") for key in set(after) - set(before))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "nowhere.yaml"], "grid 'nowhere.yaml' does not exist"),
        (["run", "grid.yaml", "--workers", "0"], "--workers must be 1 or more"),
        (["run", "grid.yaml", "--gpus", "1,1"], "--gpus must be different GPUs, such as 0,1"),
        (["run", "grid.yaml", "--only", "seed9"], "no cell's name contains 'seed9'"),
    ],
)
def test_usage_errors_are_one_line(args, message, capsys):
    grid()
    with pytest.raises(SystemExit) as e:
        cli.main(["experiments", *args])
    assert e.value.code == 2
    assert message in capsys.readouterr().err
