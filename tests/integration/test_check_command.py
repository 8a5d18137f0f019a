"""``maskx check`` on files and on registered data sets."""

import json

import numpy as np
import pytest
from conftest import write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from maskx_d2.cli import main
from maskx_d2.data import register_partial
from maskx_d2.splits import ClassSplit

SPLIT = ClassSplit("pets", {"cat", "dog"}, {"cup", "car"})

pytestmark = pytest.mark.usefixtures("no_registration_left")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


def damage(json_file, **changes):
    """Change the second annotation of the file."""
    content = json.loads(json_file.read_text())
    content["annotations"][1].update(changes)
    json_file.write_text(json.dumps(content))


def check(capsys, *argv):
    """(exit status, what was printed, the same without repeated spaces)"""
    status = main(["check", *(str(a) for a in argv)])
    out = capsys.readouterr().out
    return status, out, " ".join(out.split())


def test_a_clean_file_is_a_table_and_exit_status_0(coco, capsys):
    json_file, folder = coco
    status, out, text = check(capsys, json_file, "--image-root", folder)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["category", "boxes", "masks", "share", "set"]
    assert ["cat", "4", "4", "100.0", "%", "A"] in rows
    assert "annotations.json: 4 images, 16 boxes, 16 of them with a mask (100 %)." in text
    assert text.endswith("0 errors, 0 warnings.")
    assert "not looked for" not in text


def test_the_table_starts_with_the_most_frequent_category(coco, capsys):
    json_file, _ = coco
    content = json.loads(json_file.read_text())
    content["annotations"].pop()
    content["categories"].append({"id": 99, "name": "none"})
    json_file.write_text(json.dumps(content))
    _, out, _ = check(capsys, json_file)
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ["cat", "cup", "dog", "car"]
    assert "1 of 5 categories have no instance: 'none'." in out


def test_an_error_is_named_with_its_place_and_exit_status_1(coco, capsys):
    json_file, _ = coco
    damage(json_file, bbox=[1, 2, 0, 4])
    status, out, text = check(capsys, json_file)
    assert status == 1
    assert "error: boxes without width or height [degenerate_box]" in text
    assert "  0.png, image 1, annotation 2: the box 1, 2, 0, 4 (x, y, width, height)" in out
    assert "1 error, 0 warnings." in out
    assert "no --image-root" in out


def test_warnings_are_errors_if_strict(coco, capsys):
    json_file, _ = coco
    damage(json_file, bbox=[16, 4, 48, 20])
    assert check(capsys, json_file)[0] == 0
    assert check(capsys, json_file, "--strict")[0] == 1


def test_so_many_findings_of_a_kind_are_shown(coco, capsys):
    json_file, folder = coco
    for image in folder.glob("*.png"):
        image.unlink()
    status, out, _ = check(capsys, json_file, "--image-root", folder, "--limit", "3")
    assert status == 1
    assert out.count("there is no file") == 3
    assert "error: image files missing: 4  [image_file_missing]" in out
    assert "  ... and 1 more\n" in out


def test_a_split_is_compared_and_what_it_drops_is_told(coco, capsys, tmp_path):
    json_file, _ = coco
    split = tmp_path / "pets.json"
    split.write_text(json.dumps({"with_masks": ["cat", "dog"], "boxes_only": ["cup", "car"]}))
    status, out, _ = check(capsys, json_file, "--split", split)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][-3:] == ["pets", "to", "drop"]
    assert ["cat", "4", "4", "100.0", "%", "A", "A"] in rows
    assert ["cup", "4", "4", "100.0", "%", "A", "B", "4"] in rows
    assert "8 masks of set B of split 'pets' will be dropped in training." in out


def test_categories_with_labels_only_are_in_the_table(coco, capsys, tmp_path):
    json_file, _ = coco
    content = json.loads(json_file.read_text())
    content["categories"].append({"id": 99, "name": "zebra"})
    for image in content["images"][:3]:
        image["image_labels"] = [99]
    json_file.write_text(json.dumps(content))
    split = tmp_path / "grades.json"
    grades = {"with_masks": ["cat"], "boxes_only": ["dog"], "labels_only": ["cup", "car", "zebra"]}
    split.write_text(json.dumps(grades))
    status, out, _ = check(capsys, json_file, "--split", split)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == [
        *("category", "boxes", "masks", "share", "labels", "set", "grades", "to", "drop")
    ]
    assert ["cat", "4", "4", "100.0", "%", "A", "A"] in rows
    assert ["dog", "4", "4", "100.0", "%", "A", "B", "4"] in rows
    assert ["cup", "4", "4", "100.0", "%", "A", "C", "4", "boxes"] in rows
    assert ["zebra", "0", "0", "3", "C", "C"] in rows
    assert "1 with image labels only (3 labels)" in out
    assert "8 boxes of set C of split 'grades' will be dropped in training." in out


def test_a_preset_split_that_does_not_fit_is_an_error(coco, capsys):
    status, out, _ = check(capsys, coco[0], "--split", "voc2nonvoc")
    assert status == 1 and "[split_names]" in out and "which the data set does not have" in out


def test_the_machine_form_has_all_findings(coco, capsys, tmp_path):
    json_file, folder = coco
    for image in folder.glob("*.png"):
        image.unlink()
    argv = (json_file, "--image-root", folder, "--limit", "1", "--json")
    status, out, _ = check(capsys, *argv, "-")
    found = json.loads(out)
    assert status == 1 and found["errors"] == len(found["findings"]) == 4
    check(capsys, *argv, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == found


def test_mistakes_in_the_command_are_exit_status_2(coco, capsys, tmp_path):
    for argv, message in (
        (["no_such_data_set"], "neither a registered data set nor a file"),
        ([str(coco[0]), "--split", "no_such_split.json"], "does not exist; presets are voc2nonvoc"),
        ([str(coco[0]), "--limit", "-1"], "must not be negative"),
        ([str(coco[0]), "--json", str(tmp_path / "no" / "x.json")], "can't be written"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["check", *argv])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_file_that_is_cut_off_is_one_sentence(coco, capsys):
    json_file, _ = coco
    json_file.write_text(json_file.read_text()[:-100])
    assert main(["check", str(json_file)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "it may have been cut off." in err


# --------------------------------------------------------------------- registered data sets


def test_of_a_registered_coco_data_set_the_file_is_checked(coco, capsys):
    json_file, folder = coco
    register_coco_instances("pets", {}, str(json_file), str(folder))
    # detectron2's loader drops this box without a word that says which.
    damage(json_file, segmentation=[[1, 1, 2, 2]])
    status, out, _ = check(capsys, "pets")
    assert status == 0
    assert "0.png, image 1, annotation 2: all polygons have fewer than 3 points" in out
    (folder / "3.png").unlink()
    assert check(capsys, "pets")[0] == 1


@pytest.mark.parametrize("thing_classes", [None, ["cat", "dog", "cup", "car"]])
def test_of_a_partial_data_set_the_base_is_checked_against_its_split(coco, capsys, thing_classes):
    json_file, folder = coco
    metadata = {"thing_classes": thing_classes} if thing_classes else {}
    register_coco_instances("pets", metadata, str(json_file), str(folder))
    register_partial("pets_partial", base="pets", split=SPLIT)
    register_partial("pets_eval", base="pets", split=lambda names: SPLIT, keep_masks=True)
    damage(json_file, bbox=[1, 2, 0, 4])
    status, out, _ = check(capsys, "pets_partial")
    assert status == 1 and "annotation 2" in out
    assert "8 masks of set B of split 'pets' will be dropped in training." in out
    _, out, _ = check(capsys, "pets_eval")
    assert "8 masks of set B of split 'pets' kept, for evaluation." in out
    assert "to drop" not in out


def test_a_split_that_does_not_fit_a_partial_data_set_is_a_finding(coco, capsys):
    json_file, folder = coco
    register_coco_instances("pets", {}, str(json_file), str(folder))
    register_partial("pets_partial", base="pets", split=ClassSplit("pets", {"cat"}, {"dgo"}))
    status, out, _ = check(capsys, "pets_partial")
    assert status == 1 and "'dgo' (did you mean 'dog'?)" in out


def test_a_data_set_of_another_format_is_checked_as_it_loads(capsys):
    annotations = [
        {"bbox": np.array([1, 2, 9, 9]), "bbox_mode": 0, "category_id": 0},
        {"bbox": [1, 2, 0, 9], "bbox_mode": 1, "category_id": 1},
    ]
    record = {"file_name": __file__, "image_id": 0, "height": 9, "width": 9}
    DatasetCatalog.register("own", lambda: [{**record, "annotations": annotations}])
    with pytest.raises(SystemExit):
        main(["check", "own"])
    assert "does not name its categories" in capsys.readouterr().err
    MetadataCatalog.get("own").thing_classes = ["cat", "dog"]
    status, out, _ = check(capsys, "own")
    assert status == 1 and "image 0: the box 1, 2, 0, 9" in out


def test_a_registered_data_set_without_its_file_is_exit_status_2(capsys, tmp_path):
    register_coco_instances("pets", {}, str(tmp_path / "no.json"), str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(["check", "pets"])
    assert stop.value.code == 2
    assert "set DETECTRON2_DATASETS" in capsys.readouterr().err


def test_the_photographs_are_clean(photographs, capsys):
    for name in ("coco_2017_train_voc2nonvoc", "coco_2017_val_nonvoc2voc"):
        assert check(capsys, name, "--strict")[0] == 0
