"""``maskx report``: the page says what the evaluator says, on its own, in a real browser."""

import html.parser
import json
import os
import re
import shutil
import subprocess

import pytest
import torch
from conftest import tiny_cfg, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model

from maskx_d2 import ClassSplit
from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.engine import load_model
from maskx_d2.engine.yaml_main import load_config
from maskx_d2.evaluation import MaskProbe, SplitCOCOEvaluator
from maskx_d2.report import find_run
from maskx_d2.report.confusions import Confusion, confusions
from maskx_d2.report.measure import measure

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def pets(tmp_path):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})
    register_partial("pets_val", base="pets", split=split, keep_masks=True)


def save_run(folder, *opts):
    folder.mkdir()
    cfg = tiny_cfg(
        "coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml",
        *("DATASETS.TRAIN", ("pets_val",), "DATASETS.TEST", ("pets_val",)),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts),
    )
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    lines = [{"iteration": i, "total_loss": 3.0 - i, "loss_mask": 0.7 - i / 10} for i in (0, 1)]
    lines.append({"iteration": 2, "segm_B/AP": 1.0})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 3, "to'
    (folder / "metrics.json").write_text(text)
    return folder


@pytest.fixture
def runs(tmp_path, pets):
    return [save_run(tmp_path / name) for name in ("maskx", "oracle")]


class Tables(html.parser.HTMLParser):
    """Texts of all cells of tables with an id."""

    def __init__(self, page):
        super().__init__()
        self.rows, self._rows, self._cell = {}, None, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self._rows = self.rows.setdefault(attrs.get("id"), [])
        elif tag == "tr":
            self._rows.append([])
            self._hidden = "hidden" in attrs
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True
            if self._hidden:
                self._rows[-1][0] = None

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        if self._cell and self._rows[-1][0] is not None:
            self._rows[-1][-1] += data


def test_its_figures_are_the_evaluators(runs, tmp_path, capsys):
    page = tmp_path / "report.html"
    command = ["report", str(runs[0]), "--oracle", str(runs[1]), "--output", str(page)]
    assert main(command) == 0
    assert "report.html (" in capsys.readouterr().out
    first = page.read_text()
    loaded = load_model(str(runs[0] / "config.yaml"), str(runs[0] / "model_final.pth"))
    loader = build_detection_test_loader(
        DatasetCatalog.get("pets_val"), mapper=loaded.mapper, num_workers=0
    )
    results = {}
    for evaluator in (SplitCOCOEvaluator("pets_val"), MaskProbe("pets_val", loaded.model)):
        results |= inference_on_dataset(loaded.model, loader, evaluator)
    tables = Tables(first).rows
    heads, row = tables["detections"][:2]
    said = dict(zip(heads, row))
    for head, task, metric in (
        ("mask AP, all", "segm", "AP"),
        ("mask AP50, B", "segm_B", "AP50"),
        ("box AP, A", "bbox_A", "AP"),
    ):
        assert said[head] == f"{results[task][metric]:.1f}"
    heads, row, _, floor = tables["probe"]
    assert row[heads.index("AR, B")] == f"{results['mask_probe_B']['AR']:.1f}"
    assert floor[heads.index("IoU, A")] == f"{results['box_as_mask_A']['IoU']:.1f}"
    by_name = {row[0]: row for row in tables["categories"][1:]}
    heads = tables["categories"][0]
    assert set(by_name) == {"cat", "dog", "cup", "car"}
    assert by_name["cup"][:3] == ["cup", "B", "4"]
    for name in by_name:
        assert (
            by_name[name][heads.index("mask AP, maskx")] == f"{results['segm'][f'AP-{name}']:.1f}"
        )
    # Models beside each other, metric by metric.
    assert heads[3:] == [
        f"{metric}, {run}"
        for metric in ("mask AP", "box AP", "mask AR on true boxes")
        for run in ("maskx", "oracle")
    ]
    assert first.count(">precision<") == first.count(">recall<") == 4
    # Nothing from elsewhere, and a second report does not evaluate again.
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", first)
    assert "@import" not in first and "url(http" not in first
    about = runs[0] / "report" / "model_final" / "pets_val" / "about.json"
    before = about.stat().st_mtime_ns
    assert main(command) == 0
    assert about.stat().st_mtime_ns == before and page.read_text() == first
    # Another checkpoint is another model.
    shutil.copy(runs[1] / "model_final.pth", runs[0] / "model_final.pth")
    assert main(command) == 0
    assert about.stat().st_mtime_ns != before


def test_a_third_set_has_its_own_figures(tmp_path, capsys):
    json_file, images = write_coco(tmp_path / "pets")
    register_coco_instances("pets", {}, str(json_file), str(images))
    split = ClassSplit("grades", {"cat", "dog"}, {"cup"}, {"car"})
    register_partial("pets_val", base="pets", split=split, keep_masks=True)
    runs = [save_run(tmp_path / name) for name in ("maskx", "oracle")]
    page = tmp_path / "report.html"
    argv = ["report", str(runs[0]), "--oracle", str(runs[1]), "--output", str(page)]
    assert main([*argv, "--examples", "1"]) == 0
    text = page.read_text()
    tables = Tables(text).rows
    heads, row = tables["detections"][:2]
    assert heads[1:3] == [f"share of the oracle's mask AP, {s}" for s in "BC"]
    assert dict(zip(heads, row))["mask AP50, C"] not in ("", "–")
    assert "AR, C" in tables["probe"][0]
    by_name = {row[0]: row for row in tables["categories"][1:]}
    assert [by_name[n][1] for n in ("cat", "dog", "cup", "car")] == ["A", "A", "B", "C"]
    assert "<option>C</option>" in text and "1 of which only image labels are known" in text
    assert "Worst masks of C" in text and text.count(">precision<") == 6


def test_another_split_under_the_same_name_is_evaluated_again(runs, tmp_path):
    argv = ["report", str(runs[0]), "--output", str(tmp_path / "report.html"), "--examples", "0"]
    assert main(argv) == 0
    results = runs[0] / "report" / "model_final" / "pets_val" / "results.json"
    before = json.loads(results.read_text())
    DatasetCatalog.remove("pets_val")
    split = ClassSplit("pets", {"cat", "cup"}, {"dog", "car"})
    register_partial("pets_val", base="pets", split=split, keep_masks=True)
    assert main(argv) == 0
    after = json.loads(results.read_text())
    assert after["bbox"] == before["bbox"]
    assert after["box_as_mask_A"].keys() == before["box_as_mask_A"].keys()
    assert after["mask_probe_A"] != before["mask_probe_A"]


def test_a_data_set_that_is_not_known_here_is_named(runs, tmp_path, capsys):
    argv = ["report", str(runs[0]), "--output", str(tmp_path / "report.html")]
    DatasetCatalog.remove("pets_val")
    MetadataCatalog.remove("pets_val")
    with pytest.raises(SystemExit):
        main(argv)
    assert "data set 'pets_val' is not registered" in capsys.readouterr().err
    cfg = load_config(str(runs[0] / "config.yaml"), ["DATASETS.TEST", "()"])
    (runs[0] / "config.yaml").write_text(cfg.dump())
    assert main(argv) == 1
    assert "names no data set to test on; name one with --dataset" in capsys.readouterr().err


def test_a_run_of_somebody_else_is_left_as_it_is(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("maskx_d2.report.measure._can_be_written", lambda folder: False)
    page = tmp_path / "report.html"
    assert main(["report", str(runs[0]), "--output", str(page), "--examples", "0"]) == 0
    assert page.is_file() and not (runs[0] / "report").exists()


def test_a_data_set_without_a_file(runs):
    records = DatasetCatalog.get("pets_val")
    DatasetCatalog.register("pets_in_python", lambda: records)
    MetadataCatalog.get("pets_in_python").thing_classes = ["cat", "dog", "cup", "car"]
    loaded = load_model(str(runs[0] / "config.yaml"), str(runs[0] / "model_final.pth"))
    tasks = ("bbox", "segm")
    same, without, without_again = (
        measure(find_run(run), loaded, name, tasks=tasks).results
        for run, name in zip(
            (runs[0], runs[0], runs[1]), ("pets_val", "pets_in_python", "pets_in_python")
        )
    )
    for task in tasks:
        assert without[task]["AP"] == pytest.approx(same[task]["AP"])
    assert without_again.keys() == without.keys()
    assert MetadataCatalog.get("pets_in_python").get("json_file") is None


def test_two_sets_have_no_trace_of_a_third(runs, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", str(runs[0]), "--oracle", str(runs[1]), "--output", str(page)]) == 0
    text = page.read_text()
    assert ", C" not in "".join(Tables(text).rows["detections"][0] + Tables(text).rows["probe"][0])
    assert "image labels" not in text and "of C" not in text and "<option>C" not in text


# Scrolls the table until each bar in turn is under the first row's name.
SCROLLED = """<script>
const first = rows[0].cells[0], wide = table.parentElement;
let seen = 0, all = 0;
table.scrollIntoView();
for (const bar of [...rows[0].querySelectorAll(".track")].slice(0, 2)) {
  bar.style.opacity = .7; bar.style.background = "red";
  const at = r => r.getBoundingClientRect();
  wide.scrollLeft += at(bar).left - at(first).left - 10;
  const found = document.elementFromPoint(at(bar).left + 2, at(bar).top + at(bar).height / 2);
  seen += found === first; all += 1;
}
document.title = `${seen} of ${all} points in sight`;
</script></body>"""


def test_in_a_browser(runs, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        if os.environ.get("MASKX_REQUIRE_CHROMIUM"):
            pytest.fail("there is no Chromium")
        pytest.skip("there is no Chromium")
    page = tmp_path / "report.html"
    assert main(["report", *map(str, runs), "--output", str(page), "--examples", "2"]) == 0

    def opened(fragment, page=page):
        argv = [
            chromium,
            "--window-size=500,700",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
        ]
        argv += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        argv += ["--host-resolver-rules=MAP * ~NOTFOUND", f"file://{page}{fragment}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    everything = opened("")
    assert "4 of 4" in everything
    assert everything.count("<svg") >= 6 and everything.count("<img") == 4 * 2 * 3
    # On a phone, names stay in sight, on top of all that is scrolled under them.
    (tmp_path / "scrolled.html").write_text(page.read_text().replace("</body>", SCROLLED))
    assert "<title>2 of 2 points in sight</title>" in opened("", tmp_path / "scrolled.html")
    shown = [row[0] for row in Tables(opened("#set=B")).rows["categories"][1:]]
    assert sorted(filter(None, shown)) == ["car", "cup"]
    shown = [row[0] for row in Tables(opened("#q=C&sort=0&desc=1")).rows["categories"][1:]]
    assert list(filter(None, shown)) == ["cup", "cat", "car"]


def test_what_does_not_fit(runs, tmp_path, capsys):
    page = ["--output", str(tmp_path / "report.html")]
    for argv, said in (
        ([str(tmp_path / "gone")], "gone' does not exist; name the OUTPUT_DIR"),
        ([str(tmp_path / "pets")], "has no model_final.pth and no last_checkpoint"),
        ([str(runs[0]), str(runs[0])], "two models are called the same (maskx, maskx)"),
    ):
        with pytest.raises(SystemExit) as e:
            main(["report", *argv, *page])
        assert e.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as e:
        main(["report", str(runs[0]), "--dataset", "pets_vla", *page])
    assert e.value.code == 2
    assert "data set 'pets_vla' is not registered; did you mean" in capsys.readouterr().err


def test_confusions():
    def box(x, category):
        return {"bbox": [x, 0, 10, 10], "bbox_mode": 1, "category_id": category}

    def found(x, category, score):
        return {"image_id": 1, "bbox": [x, 0, 10, 10], "category_id": category, "score": score}

    truth = [box(0, 0), box(1, 1), box(40, 0), box(80, 1), box(120, 2) | {"iscrowd": 1}]
    records = [{"image_id": 1, "annotations": truth}]
    detections = [
        *(found(0, 0, 0.9), found(0, 1, 0.8)),  # two objects on one box, both right
        *(found(41, 2, 0.7), found(40, 1, 0.5), found(40, 0, 0.2)),  # the right one too unsure
    ]
    assert confusions(records, detections, ["cat", "dog", "cup"]) == [
        Confusion("cat", "cup", 1, 0.5),
        Confusion("dog", None, 1, 0.5),
    ]
