import copy
import itertools
import json
import random

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from maskx_d2.data import annotation_checks, findings
from maskx_d2.data.check import check_coco_json, check_dataset_dicts
from maskx_d2.data.findings import KINDS
from maskx_d2.data.rle import _run_length_sums
from maskx_d2.splits import ClassSplit, coco_voc2nonvoc

HEIGHT, WIDTH = 48, 64
SPLIT = ClassSplit("pets", {"cat"}, {"dog"})


def rle(x0, y0, x1, y1, height=HEIGHT, width=WIDTH):
    bitmask = np.zeros((height, width), dtype=np.uint8, order="F")
    bitmask[y0:y1, x0:x1] = 1
    encoded = mask_api.encode(bitmask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def clean():
    """Three images, two categories; polygons, both kinds of RLE, boxes only, and a crowd."""

    def annotation(number, image, category, box, **more):
        return {"id": number, "image_id": image, "category_id": category, "bbox": box, **more}

    uncompressed = {"size": [HEIGHT, WIDTH], "counts": [4 * 48 + 5, 9, 48 * 64 - 4 * 48 - 14]}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (7, 8, 9)
        ],
        "annotations": [
            annotation(
                1, 7, 2, [4, 6, 20, 10], segmentation=[[4, 6, 14, 6, 14, 16], [20, 6, 24, 9, 21, 8]]
            ),
            annotation(2, 7, 2, [30, 20, 12, 9], segmentation=rle(30, 20, 42, 29)),
            annotation(3, 8, 2, [4, 5, 1, 9], segmentation=uncompressed),
            annotation(4, 8, 5, [1.5, 2.5, 20, 30], iscrowd=0),
            annotation(5, 8, 5, [3, 4, 20, 30], segmentation=[]),
            # COCO's crowd regions: the box ends a pixel before the mask does.
            annotation(6, 9, 5, [0, 0, 63, 47], segmentation=rle(0, 0, 64, 48), iscrowd=1),
            annotation(7, 9, 5, [63, 40, 2, 8], segmentation=None),
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


def write_image(path, width=WIDTH, height=HEIGHT, mode="RGB", orientation=None):
    image = Image.new(mode, (width, height))
    if orientation is not None:
        image.getexif()[0x0112] = orientation
    image.save(path, exif=image.getexif())


def check(content, tmp_path, **kwargs):
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    return check_coco_json(file, **kwargs)


def defects(report):
    return [f for f in report.findings if f.severity != "note"]


def test_a_clean_file_has_no_findings_and_is_counted(tmp_path):
    report = check(clean(), tmp_path, split=SPLIT)
    assert report.ok and defects(report) == []
    assert set(report.counts) == {"images_without_masks"}
    summary = report.summary
    assert summary.thing_classes == ("cat", "dog")
    np.testing.assert_array_equal(summary.boxes, [3, 3])
    np.testing.assert_array_equal(summary.masks, [3, 0])
    assert summary.sets == ("A", "B")
    assert (summary.num_images, summary.crowds) == (3, 1)
    assert (summary.images_without_boxes, summary.images_without_masks) == (0, 1)
    assert report.masks_of_boxes_only == 0


ANNOTATION_1 = (7, 1, "7.jpg")  # image id, annotation id, file name of most defects below


def edit(**changes):
    """Change the first annotation; None removes a key."""

    def apply(content):
        for key, value in changes.items():
            content["annotations"][0][key] = value
            if value is None:
                del content["annotations"][0][key]

    return apply


def edit_image(**changes):
    def apply(content):
        content["images"][0].update(changes)

    return apply


def repeat(section, **changes):
    def apply(content):
        content[section].append({**copy.deepcopy(content[section][0]), **changes})

    return apply


def crowds_only(content):
    content["annotations"][-1]["iscrowd"] = 1


def masks_far_from_box():
    return edit(segmentation=[[44, 30, 60, 30, 60, 44]])


BOX_1 = {"bbox": [4, 6, 20, 10]}
TWO_POINTS = [1, 1, 9, 9]
POLYGON_1 = [4, 6, 24, 6, 24, 16]
CASES = [
    # kind, how to get it, (image id, annotation id, file name), part of the message
    ("duplicate_image_id", repeat("images"), (7, None, "7.jpg"), "used before"),
    ("image_entry", repeat("images", id=None), (None, None, None), "needs an id"),
    ("image_entry", repeat("images", id=1, file_name=None), (1, None, None), "file_name is None"),
    (
        "image_entry",
        repeat("images", id=1, file_name="1.jpg", width=0),
        (1, None, "1.jpg"),
        "width 0",
    ),
    (
        "image_entry",
        repeat("images", id=1, file_name="1.jpg", height="9"),
        (1, None, "1.jpg"),
        "height is '9'",
    ),
    ("duplicate_category_id", repeat("categories", name="x"), (None,) * 3, "'cat' and 'x' share"),
    ("duplicate_category_name", repeat("categories", id=9), (None,) * 3, "2 categories"),
    ("category_entry", repeat("categories", name=None), (None,) * 3, "needs a number"),
    ("duplicate_annotation_id", repeat("annotations", bbox=[3, 6, 21, 10]), ANNOTATION_1, "before"),
    ("annotation_entry", edit(id=None), (7, None, "7.jpg"), "id is None"),
    ("unknown_image", edit(image_id=77), (77, 1, None), "77"),
    ("unknown_image", edit(image_id=[7]), ([7], 1, None), "[7]"),
    ("unknown_category", edit(category_id=3), ANNOTATION_1, "3"),
    ("unreadable_box", edit(bbox=None), ANNOTATION_1, "no bbox"),
    ("unreadable_box", edit(bbox=[]), ANNOTATION_1, "[]"),
    ("unreadable_box", edit(bbox=[1, 2, 3]), ANNOTATION_1, "[1, 2, 3]"),
    ("unreadable_box", edit(bbox=[1, 2, 3, "4"]), ANNOTATION_1, "'4'"),
    ("unreadable_box", edit(bbox="4"), ANNOTATION_1, "'4'"),
    ("degenerate_box", edit(bbox=[4, 6, 0, 10]), ANNOTATION_1, "4, 6, 0, 10"),
    ("degenerate_box", edit(bbox=[4, 6, 20, -1]), ANNOTATION_1, "4, 6, 20, -1"),
    ("box_outside_image", edit(bbox=[64, 6, 9, 9], segmentation=None), ANNOTATION_1, "64 x 48"),
    ("box_outside_image", edit(bbox=[4, -9, 9, 9], segmentation=None), ANNOTATION_1, "4, -9"),
    ("box_beyond_image", edit(bbox=[50, 6, 16, 9], segmentation=None), ANNOTATION_1, "2 pixels"),
    ("box_beyond_image", edit(bbox=[-2, 6, 9, 9], segmentation=None), ANNOTATION_1, "2 pixels"),
    ("annotation_entry", edit(iscrowd="0"), ANNOTATION_1, "iscrowd is '0'"),
    ("image_entry", repeat("images", id="x", file_name="x.jpg"), ("x", None, "x.jpg"), "first"),
    ("image_entry", repeat("images", id=1, file_name=""), (1, None, None), "file_name is ''"),
    ("duplicate_file_name", repeat("images", id=1), (1, None, "7.jpg"), "that of image 7"),
    ("ignored_annotation", edit(ignore=1), ANNOTATION_1, "'ignore' is 1"),
    ("mask_weight", edit(mask_weight=1.5), ANNOTATION_1, "mask_weight is 1.5"),
    ("mask_weight", edit(mask_weight="high"), ANNOTATION_1, "mask_weight is 'high'"),
    ("rle_size", edit(segmentation=rle(4, 6, 24, 16, 49, 64)), ANNOTATION_1, "64 x 49"),
    ("rle_size", edit(segmentation=rle(4, 6, 24, 16, 48, 65)), ANNOTATION_1, "65 x 48"),
    ("rle_size", edit(segmentation=rle(4, 6, 24, 16, 64, 48)), ANNOTATION_1, "48 x 64"),
    ("odd_polygon", edit(segmentation=[[*POLYGON_1, 1]]), ANNOTATION_1, "1 of 1 polygons"),
    ("odd_polygon", edit(segmentation=[POLYGON_1, [1, 2, 3]]), ANNOTATION_1, "1 of 2 polygons"),
    ("malformed_mask", edit(segmentation="4 6 24"), ANNOTATION_1, "'4 6 24'"),
    ("malformed_mask", edit(segmentation=7), ANNOTATION_1, "7"),
    ("malformed_mask", edit(segmentation=POLYGON_1), ANNOTATION_1, "a polygon is 4"),
    ("malformed_mask", edit(segmentation=[[4, None, 3, 3, 3, 3]]), ANNOTATION_1, "None"),
    ("malformed_mask", edit(segmentation=[["4"] * 6]), ANNOTATION_1, "'4'"),
    ("malformed_mask", edit(segmentation={"counts": "11"}), ANNOTATION_1, "size is None"),
    ("malformed_mask", edit(segmentation={"size": [0, 0], "counts": [0]}), ANNOTATION_1, "[0, 0]"),
    ("malformed_mask", edit(segmentation={"size": [48, 64]}), ANNOTATION_1, "counts are None"),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": [3, 5]}),
        ANNOTATION_1,
        "8 pixels",
    ),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": [2**40]}),
        ANNOTATION_1,
        "1099511627776 pixels",
    ),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": [-3, 48 * 64 + 3]}),
        ANNOTATION_1,
        "not all run lengths",
    ),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": rle(4, 6, 24, 16)["counts"][:2]}),
        ANNOTATION_1,
        "pixels long",
    ),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": "11o"}),
        ANNOTATION_1,
        "cut off",
    ),
    (
        "malformed_mask",
        edit(segmentation={"size": [48, 64], "counts": "é"}),
        ANNOTATION_1,
        "can't be",
    ),
    ("no_usable_polygon", edit(segmentation=[TWO_POINTS]), ANNOTATION_1, "drops the box"),
    ("short_polygon", edit(segmentation=[POLYGON_1, TWO_POINTS]), ANNOTATION_1, "1 of 2"),
    ("empty_mask", edit(segmentation=rle(0, 0, 0, 0)), ANNOTATION_1, "no pixel"),
    (
        "empty_mask",
        edit(segmentation={"size": [48, 64], "counts": [48 * 64]}),
        ANNOTATION_1,
        "no pixel",
    ),
    ("mask_leaves_box", edit(bbox=[4, 6, 17, 10]), ANNOTATION_1, "3 pixels out of"),
    ("mask_leaves_box", edit(segmentation=rle(1, 6, 24, 16)), ANNOTATION_1, "3 pixels out of"),
    ("mask_box_mismatch", masks_far_from_box(), ANNOTATION_1, "IoU of 0.00"),
    ("mask_box_mismatch", edit(bbox=[4, 6, 50, 40]), ANNOTATION_1, "IoU of 0.10"),
    ("image_labels", edit_image(image_labels=[2, 3]), (7, None, "7.jpg"), "image_labels has 3"),
    ("image_labels", edit_image(image_labels="cat"), (7, None, "7.jpg"), "'cat', not a list"),
    ("label_without_box", edit_image(image_labels=[2, 5]), (7, None, "7.jpg"), "labelled 'dog'"),
    ("crowd_only_image", crowds_only, (9, None, "9.jpg"), "crowd regions (2)"),
    ("duplicate_instance", repeat("annotations", id=11), (7, 11, "7.jpg"), "annotation 1."),
]


@pytest.mark.parametrize(
    ("kind", "damage", "where", "message"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_a_defect_is_found_named_and_the_only_finding(kind, damage, where, message, tmp_path):
    content = clean()
    damage(content)
    report = check(content, tmp_path)
    (finding,) = defects(report)
    assert finding.kind == kind
    assert finding.severity == KINDS[kind][0]
    assert (finding.image_id, finding.annotation_id, finding.file_name) == where
    assert message in finding.message
    assert finding.message.endswith(".")
    assert report.counts[kind] == 1
    assert report.ok == (finding.severity == "warning")


def test_every_kind_of_finding_has_a_test():
    elsewhere = {"image_folder_missing", "image_file_missing", "split_names"}
    elsewhere |= {"split_without_masks", "split_without_boxes", "image_unreadable"}
    elsewhere |= {"image_size_differs", "image_depth", "no_annotations", "mask_is_box"}
    elsewhere |= {"crowd_only_category"}
    notes = {kind for kind, (severity, _) in KINDS.items() if severity == "note"}
    assert {case[0] for case in CASES} | elsewhere | notes == set(KINDS)


@pytest.mark.parametrize("annotation_id", ["one", 1.0, None])
def test_ids_that_no_training_takes(annotation_id, tmp_path):
    content = clean()
    edit(id=annotation_id)(content)
    (found,) = defects(check(content, tmp_path))
    assert "annotation_entry" in str(found)


@pytest.mark.parametrize(
    "harmless",
    [
        edit(bbox=[0, 6, 24, 10]),  # four pixels of slack
        edit(bbox=[4, 6, 19, 10]),  # a pixel less than the mask
        edit(ignore=0),
        edit(bbox=[55, 6, 10, 9], segmentation=None),  # a pixel beyond the image
        edit(bbox=[4, 6, 1, 1], segmentation=[[4, 6, 6, 6, 6, 8]]),  # tiny: IoU 0.25, one pixel
        repeat("annotations", id=11, image_id=8),  # the same box in another image
        repeat("annotations", id=11, category_id=5),  # or of another category
        edit(segmentation={}),
        edit_image(license=4),
        edit_image(image_labels=[2]),  # of which the image has boxes
    ],
)
def test_what_is_no_defect_is_not_reported(harmless, tmp_path):
    content = clean()
    harmless(content)
    assert defects(check(content, tmp_path)) == []


def test_an_id_used_three_times_is_found_twice(tmp_path):
    content = clean()
    for annotation in content["annotations"][:3]:
        annotation["id"] = 4
    report = check(content, tmp_path)
    assert report.counts["duplicate_annotation_id"] == 3


def test_the_order_of_sections_and_entries_does_not_matter(tmp_path):
    content = clean()
    for damage in (edit(bbox=[4, 6, 50, 40]), repeat("images"), repeat("categories", id=9)):
        damage(content)
    content["annotations"][2]["image_id"] = 77
    expected = check(content, tmp_path).to_json()
    for order in itertools.permutations(content):
        assert check({section: content[section] for section in order}, tmp_path).to_json() == (
            expected
        )
    for section in ("categories", "annotations"):
        random.Random(0).shuffle(content[section])
    assert check(content, tmp_path).to_json() == expected


def test_batches_do_not_matter(tmp_path, monkeypatch):
    content = clean()
    content["annotations"] = [
        {**a, "id": 10 * i + a["id"], "image_id": i}
        for i in range(1, 9)
        for a in content["annotations"]
    ]
    content["images"] = [{**content["images"][0], "id": i} for i in range(1, 9)]
    content["annotations"][20]["bbox"] = [30, 6, 2, 2]
    content["annotations"][40]["segmentation"] = [TWO_POINTS]
    expected = check(content, tmp_path).to_json()
    for batch in (1, 3, 56):
        monkeypatch.setattr(annotation_checks, "_BATCH", batch)
        assert check(content, tmp_path).to_json() == expected


def test_very_many_rles_are_checked_at_once(tmp_path):
    content = clean()
    content["annotations"] = [
        {**content["annotations"][1], "id": i, "bbox": [i % 60, 1, 2, 3 + i // 60]}
        for i in range(600)
    ]
    for i, annotation in enumerate(content["annotations"]):
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = rle(x, y, x + width, y + (height if i != 555 else 0))
    (finding,) = defects(check(content, tmp_path))
    assert (finding.kind, finding.annotation_id) == ("empty_mask", 555)


# ---------------------------------------------------------------------------------- images


def test_image_files_are_looked_for_where_the_folder_is_known(tmp_path):
    for name in ("7.jpg", "9.jpg"):
        write_image(tmp_path / name)
    (finding,) = defects(check(clean(), tmp_path, image_root=tmp_path))
    assert (finding.kind, finding.image_id, finding.file_name) == ("image_file_missing", 8, "8.jpg")
    write_image(tmp_path / "8.jpg")
    assert defects(check(clean(), tmp_path, image_root=tmp_path)) == []
    content = clean()
    content["images"][0]["file_name"] = "https://x.org/7.jpg"
    (finding,) = defects(check(content, tmp_path, image_root=tmp_path))
    assert finding.kind == "image_file_missing" and "is an address" in finding.message


def test_image_headers_are_read(tmp_path):
    write_image(tmp_path / "7.jpg", HEIGHT, WIDTH, orientation=6)  # upright as the file says
    write_image(tmp_path / "8.jpg", orientation=6)
    (tmp_path / "9.jpg").write_text("no image")
    unreadable, turned = defects(check(clean(), tmp_path, image_root=tmp_path))
    assert (unreadable.kind, unreadable.file_name) == ("image_unreadable", "9.jpg")
    assert (turned.kind, turned.file_name) == ("image_size_differs", "8.jpg")
    assert "has 48 x 64 pixels" in turned.message and "says 64 x 48; its EXIF" in turned.message
    assert defects(check(clean(), tmp_path, image_root=tmp_path, open_images=False)) == []

    content = clean()
    content["images"] = [{**content["images"][0], "file_name": "7.png"}]
    content["annotations"] = content["annotations"][:1]
    write_image(tmp_path / "7.png", WIDTH + 1, mode="I;16")
    wrong_size, deep = defects(check(content, tmp_path, image_root=tmp_path))
    assert wrong_size.message.endswith(
        "has 65 x 48 pixels (width x height), but the data set says 64 x 48."
    )
    assert deep.kind == "image_depth" and "more than 8 bits" in deep.message


def test_a_missing_image_folder_is_one_finding(tmp_path):
    (finding,) = defects(check(clean(), tmp_path, image_root=tmp_path / "no"))
    assert finding.kind == "image_folder_missing"
    assert str(tmp_path / "no") in finding.message


# ---------------------------------------------------------------------------------- notes


def test_a_mixed_category_is_a_note(tmp_path):
    content = clean()
    del content["annotations"][1]["segmentation"]
    report = check(content, tmp_path)
    assert report.ok and report.summary.sets == ("mixed", "B")
    (note,) = [f for f in report.findings if f.kind == "mixed_category"]
    assert note.message == "2 of 3 instances of 'cat' have a mask."


def test_what_is_missing_is_one_note_with_examples(tmp_path):
    content = clean()
    content["images"] += [
        {**content["images"][0], "id": i, "file_name": f"{i}.jpg"} for i in range(20, 40)
    ]
    content["categories"] += [{"id": i, "name": f"c{i}"} for i in range(20, 30)]
    notes = {f.kind: f.message for f in check(content, tmp_path).findings}
    assert notes == {
        "category_without_instances": "10 of 12 categories have no instance: 'c20', 'c21', 'c22', "
        "'c23', 'c24' and 5 more.",
        "images_without_annotations": "20 of 23 images have no annotation, e.g. 20, 21, 22.",
        "images_without_masks": "1 of 23 images have boxes and no mask, e.g. 9.",
    }


def test_an_image_whose_annotations_are_all_wrong_is_not_without_annotations(tmp_path):
    content = clean()
    content["annotations"] = content["annotations"][:5]
    content["images"].pop()
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 3
    assert "images_without_annotations" not in check(content, tmp_path).counts


# ---------------------------------------------------------------------------------- splits


def test_masks_of_boxes_only_are_counted(tmp_path):
    report = check(clean(), tmp_path, split=ClassSplit("swapped", {"dog"}, {"cat"}))
    assert report.masks_of_boxes_only == 3
    (finding,) = defects(report)
    assert finding.kind == "split_without_masks"
    assert "'dog' has masks, but none of its 3 instances has one" in finding.message


@pytest.mark.parametrize("split", [ClassSplit("pets", {"cat"}, {"dgo"}), coco_voc2nonvoc])
def test_a_split_of_other_categories_is_an_error_and_the_rest_is_checked(split, tmp_path):
    report = check(clean(), tmp_path, split=split)
    (finding,) = defects(report)
    assert finding.kind == "split_names" and "which the data set does not have" in finding.message
    assert report.split is None and report.masks_of_boxes_only == 0


# --------------------------------------------------------------------------- image labels


def with_zebras(content):
    """Two images are labelled with a category that has no box anywhere; one has nothing else."""
    content["categories"].append({"id": 9, "name": "zebra"})
    content["images"][0]["image_labels"] = [2, 9]
    content["images"].append(
        {**content["images"][0], "id": 10, "file_name": "10.jpg", "image_labels": [9]}
    )
    return content


GRADES = ClassSplit("grades", {"cat"}, {"dog"}, {"zebra"})


def test_categories_with_labels_only_are_counted(tmp_path):
    report = check(with_zebras(clean()), tmp_path, split=GRADES)
    assert report.ok and set(report.counts) == {"images_without_masks"}
    assert report.summary.sets == ("A", "B", "C")
    np.testing.assert_array_equal(report.summary.labels, [0, 0, 2])
    assert report.boxes_of_labels_only == 0
    found = report.to_json()
    assert found["boxes_of_labels_only"] == 0
    assert found["categories"][2] == {
        **{"name": "zebra", "boxes": 0, "masks": 0, "set": "C"},
        **{"labels": 2, "split": "C"},
    }


def test_boxes_of_labels_only_are_counted_and_are_no_labels_of_the_file(tmp_path):
    content = clean()
    content["images"][0]["image_labels"] = [5]
    report = check(content, tmp_path, split=ClassSplit("s", {"cat"}, set(), {"dog"}))
    assert report.ok and set(report.counts) == {"images_without_masks"}
    assert (report.boxes_of_labels_only, report.masks_of_boxes_only) == (3, 0)


def test_boxes_that_a_split_promises_and_labels_do_not_give_are_an_error(tmp_path):
    for split in (
        ClassSplit("s", {"cat"}, {"dog", "zebra"}),
        ClassSplit("s", {"cat", "zebra"}, {"dog"}),
    ):
        (finding,) = defects(check(with_zebras(clean()), tmp_path, split=split))
        assert finding.kind == "split_without_boxes"
        assert "'zebra' has boxes, but of it there are only 2 image labels" in finding.message


# ---------------------------------------------------------------------------------- files


@pytest.mark.parametrize("text", ["{", "images, annotations", '{"categories": [NaN]}'])
def test_what_is_not_json_is_one_sentence(text, tmp_path):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ValueError, match="is not valid JSON"):
        check_coco_json(tmp_path / "data.json")


def test_a_json_without_categories_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no 'categories'"):
        check({"images": [], "annotations": []}, tmp_path)


def test_a_file_with_categories_only_is_checked(tmp_path):
    report = check({"categories": [{"id": 1, "name": "cat"}]}, tmp_path)
    assert report.summary.num_images == 0 and set(report.counts) == {
        "no_annotations",
        "category_without_instances",
    }


def test_a_file_without_annotations_is_an_error(tmp_path):
    content = clean()
    content["annotation"] = content.pop("annotations")
    (finding,) = (f for f in check(content, tmp_path).findings if f.severity == "error")
    assert finding.kind == "no_annotations"
    assert "no 'annotations' but 'images', 'categories', 'annotation'" in finding.message
    (finding,) = defects(check({**clean(), "annotations": []}, tmp_path))
    assert finding.kind == "no_annotations" and "'annotations' is empty" in finding.message


def test_categories_of_crowds_only_are_told(tmp_path):
    content = clean()
    for annotation in content["annotations"]:
        if annotation["category_id"] == 2:
            annotation["iscrowd"] = 1
    findings = {f.kind: f.message for f in defects(check(content, tmp_path))}
    assert findings["crowd_only_category"].startswith("all 3 annotations of 'cat' are crowd")


def test_masks_that_are_boxes_are_told(tmp_path):
    def with_masks(*polygons):
        content = clean()
        content["annotations"] = [
            {
                **{"id": i, "image_id": 7, "category_id": 2, "bbox": [4, 6, 10 + i, 9]},
                "segmentation": [polygon(4, 6, 14 + i, 15)],
            }
            for i, polygon in enumerate(polygons)
        ]
        return [f for f in defects(check(content, tmp_path)) if f.kind == "mask_is_box"]

    def box(x0, y0, x1, y1):
        return [x0, y0, x1, y0, x1, y1, x0, y1]

    def closed(*corners):
        return [*box(*corners), *corners[:2]]

    def cut(x0, y0, x1, y1):
        return [x0, y0, x1, y0, x1, y1, x0, y1 - 4]

    (finding,) = with_masks(box, closed, box, box, box, cut)
    assert finding.message.startswith("5 of 6 masks of 'cat' are the box itself")
    assert not with_masks(box, box, box, box), "few may be chance"
    assert not with_masks(box, box, box, box, box, cut, cut), "5 of 7 are not most"


def test_the_machine_form_has_everything(tmp_path):
    content = clean()
    edit(bbox=[1, 2, 3])(content)
    found = json.loads(json.dumps(check(content, tmp_path, split=SPLIT).to_json()))
    assert found["ok"] is False and found["errors"] == 1 and found["warnings"] == 0
    assert found["counts"] == {"unreadable_box": 1, "images_without_masks": 1}
    assert found["findings"][0]["annotation_id"] == 1
    assert found["categories"] == [
        {"name": "cat", "boxes": 2, "masks": 2, "set": "A", "split": "A"},
        {"name": "dog", "boxes": 3, "masks": 0, "set": "B", "split": "B"},
    ]


def test_of_very_many_findings_some_are_kept_and_all_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "_KEPT_PER_KIND", 2)
    content = clean()
    for annotation in content["annotations"]:
        annotation["bbox"] = None
    report = check(content, tmp_path)
    assert [f.kind for f in report.findings].count("unreadable_box") == 2
    assert report.counts["unreadable_box"] == 7
    assert not report.ok and report.count("error") == 7


# --------------------------------------------------------------------------- dataset dicts


def records(tmp_path):
    file = tmp_path / "a.jpg"
    write_image(file)
    bitmask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    bitmask[6:16, 4:24] = True
    return [
        {
            "file_name": str(file),
            "image_id": "a",
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": [
                {"bbox": [4, 6, 24, 16], "bbox_mode": 0, "category_id": 0, "segmentation": bitmask},
                {"bbox": [30, 6, 20, 10], "bbox_mode": 1, "category_id": 1},
            ],
        }
    ]


def test_numbers_of_numpy_are_numbers(tmp_path):
    dataset_dicts = records(tmp_path)
    for annotation in dataset_dicts[0]["annotations"]:
        annotation["category_id"] = np.int64(annotation["category_id"])
        annotation.update(mask_weight=np.float32(0.5), iscrowd=np.int64(0))
    assert defects(check_dataset_dicts(dataset_dicts, ["cat", "dog"])) == []


def test_clean_dataset_dicts_have_no_findings(tmp_path):
    report = check_dataset_dicts(records(tmp_path), ["cat", "dog"], split=SPLIT)
    assert report.findings == ()
    assert report.summary.sets == ("A", "B")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("unknown_category", {"category_id": 2}),
        ("degenerate_box", {"bbox": np.array([4, 6, 4, 16])}),
        ("mask_box_mismatch", {"bbox": np.array([4, 6, 60, 40])}),
        ("unreadable_box", {"bbox": [4, 6, np.nan, 16]}),
        ("unreadable_box", {"bbox": [np.nan] * 4}),
        ("unreadable_box", {"bbox": None}),
        ("unreadable_box", {"bbox": [4, 6, np.inf, 16], "segmentation": None}),
        ("malformed_mask", {"segmentation": [[4.0, 6.0, np.inf, 6.0, 24.0, 16.0]]}),
        ("empty_mask", {"segmentation": np.zeros((HEIGHT, WIDTH))}),
        ("rle_size", {"segmentation": np.ones((WIDTH, HEIGHT))}),
        ("mask_weight", {"mask_weight": 2}),
    ],
)
def test_defects_of_dataset_dicts_are_found(kind, changes, tmp_path):
    dataset_dicts = records(tmp_path)
    dataset_dicts[0]["annotations"][0].update(changes)
    (finding,) = defects(check_dataset_dicts(dataset_dicts, ["cat", "dog"]))
    assert (finding.kind, finding.image_id) == (kind, "a")


def test_image_labels_of_dataset_dicts_are_checked(tmp_path):
    dataset_dicts = records(tmp_path)
    dataset_dicts[0]["image_labels"] = [0, 2]
    classes = ["cat", "dog", "zebra"]
    report = check_dataset_dicts(dataset_dicts, classes, split=GRADES)
    assert report.findings == () and report.summary.sets == ("A", "B", "C")
    dataset_dicts[0]["image_labels"] = [0, 3]
    (finding,) = defects(check_dataset_dicts(dataset_dicts, classes))
    assert (finding.kind, finding.image_id) == ("image_labels", "a")
    assert "image_labels has 3, which is no category's id" in finding.message


def test_missing_files_and_repeated_images_of_dataset_dicts_are_found(tmp_path):
    dataset_dicts = records(tmp_path) * 2
    (tmp_path / "a.jpg").unlink()
    kinds = [f.kind for f in defects(check_dataset_dicts(dataset_dicts, ["cat", "dog"]))]
    assert kinds == ["duplicate_image_id", "image_file_missing", "image_file_missing"]


# ----------------------------------------------------------------------------------- masks


def test_run_lengths_sum_to_the_pixels():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 90, (60, 2))
    strings = []
    for i, (height, width) in enumerate(sizes):
        noise = rng.random((height, width)) < (0.0, 0.02, 0.5, 0.97, 1.0)[i % 5]
        strings.append(mask_api.encode(np.asfortranarray(noise, dtype=np.uint8))["counts"])
    np.testing.assert_array_equal(_run_length_sums(strings), sizes.prod(axis=1))
