import itertools

import numpy as np
import pytest
import torch
from conftest import make_targets
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from maskx_d2 import ClassSplit, visualization
from maskx_d2.visualization import draw_annotations, draw_instances

pytestmark = pytest.mark.usefixtures("no_registration_left")

WHITE = np.full((64, 64, 3), 255, dtype=np.uint8)


@pytest.fixture
def metadata():
    return MetadataCatalog.get("drawn").set(
        thing_classes=["cat", "dog", "cup", "car"],
        class_split=ClassSplit("s", {"cat", "car"}, {"dog", "cup"}),
    )


def greenest_and_reddest(picture):
    """How strongly green and red show anywhere in the picture."""
    red, green, _ = np.moveaxis(picture.astype(int), -1, 0)
    return (green - red).max(), (red - green).max()


GRADES = Metadata(
    thing_classes=["cat", "dog", "cup", "car"],
    class_split=ClassSplit("grades", {"cat"}, {"dog"}, {"cup", "car"}),
)


def test_c_is_violet():
    for category, is_violet in ((0, False), (1, False), (2, True), (3, True)):
        picture = draw_instances(WHITE, make_targets([True], [category]), GRADES, labels=False)
        red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
        assert bool((blue - np.maximum(red, green)).max() > 80) is is_violet


def test_masks_keep_their_holes(metadata):
    ring = np.zeros((64, 64), dtype=bool)
    ring[10:50, 10:50] = True
    ring[22:38, 22:38] = False
    instances = Instances((64, 64), pred_boxes=Boxes([[10, 10, 50, 50]]))
    instances.scores, instances.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.long)
    instances.pred_masks = torch.from_numpy(ring[None])
    picture = draw_instances(WHITE, instances, metadata, labels=False, scale=4)
    assert (picture[4 * 26 : 4 * 34, 4 * 26 : 4 * 34] == 255).all()
    beside = picture[4 * 14 : 4 * 18, 4 * 26 : 4 * 34]
    assert (beside[..., 0] < 200).all() and (beside[..., 1] > beside[..., 0]).all()


def test_sets_differ_without_colours():
    """The boxes of A are solid lines, those of B are dashed, and those of C dotted."""
    white = np.full((200, 200, 3), 255, np.uint8)
    drawn, pieces = [], []
    for category in (0, 1, 2):
        target = Instances((200, 200), gt_boxes=Boxes([[20, 100, 180, 180]]))
        target.gt_classes = torch.tensor([category])
        edge = draw_instances(white, target, GRADES, labels=False)[100, 30:170].min(axis=-1) < 200
        drawn.append(edge.mean())
        pieces.append(int((np.diff(edge.astype(int)) == 1).sum()))
    assert drawn[0] == 1 and drawn[1] < 0.9 and drawn[2] < 0.9
    assert pieces[0] == 0 < pieces[1] < pieces[2]


# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", severity 1, of linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def lab(linear):
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(to_xyz @ linear / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colours_differ_for_everyone(deficiency):
    seen = {}
    for letter, color in visualization.SET_COLORS.items():
        over_grey = (np.array(color) + 0.5) / 2  # as masks are drawn
        linear = ((over_grey + 0.055) / 1.055) ** 2.4
        seen[letter] = lab(np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1))
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 25, (one, other)


@pytest.mark.parametrize(("category", "is_green"), [(0, True), (1, False), (2, False), (3, True)])
def test_a_is_green_and_b_is_red(metadata, category, is_green):
    predicted = Instances((64, 64))
    target = make_targets([True], [category])
    predicted.pred_boxes = target.gt_boxes
    predicted.pred_classes = target.gt_classes
    predicted.pred_masks = target.gt_masks.tensor
    predicted.scores = torch.tensor([0.9])
    for instances in (predicted, target):
        green, red = greenest_and_reddest(draw_instances(WHITE, instances, metadata, labels=False))
        assert bool(green > 80) is is_green
        assert bool(red > 80) is not is_green


def test_low_scores_are_left_out_and_scale_is_of_the_picture(metadata):
    predicted = make_targets([True], [0])
    instances = Instances(
        (64, 64), pred_boxes=predicted.gt_boxes, pred_classes=predicted.gt_classes
    )
    instances.scores = torch.tensor([0.4])
    assert (draw_instances(WHITE, instances, metadata) == 255).all()
    assert draw_instances(WHITE, instances, metadata, min_score=0.3, scale=2).shape == (128, 128, 3)
    assert not (draw_instances(WHITE, instances, metadata, min_score=0.3) == 255).all()


def test_labels_stay_in_the_picture_and_do_not_cover_each_other(monkeypatch):
    drawn = []
    draw_text = visualization._Visualizer.draw_text

    def recorded(self, *args, **kwargs):
        output = draw_text(self, *args, **kwargs)
        self.output.canvas.draw()
        renderer = output.canvas.get_renderer()
        patches = [t.get_bbox_patch().get_window_extent(renderer) for t in output.ax.texts]
        drawn[:] = [patch.extents for patch in patches]
        return output

    monkeypatch.setattr(visualization._Visualizer, "draw_text", recorded)
    pair = [[20, 30, 60, 70], [20, 30, 60, 71], [20, 31, 60, 70]]
    border = [[100, 30, 126, 60], [100, 30, 126, 61], [100, 110, 126, 127]]
    instances = Instances((128, 128), pred_boxes=Boxes(pair + border), scores=torch.ones(6))
    instances.pred_classes = torch.tensor([0, 1, 0, 0, 1, 0])
    white = np.full((128, 128, 3), 255, np.uint8)
    metadata = Metadata(thing_classes=["speckled triangle", "light square"])
    draw_instances(white, instances, metadata, scale=5)
    assert len(drawn) == 6
    for i, (x0, y0, x1, y1) in enumerate(drawn):
        assert x0 >= 0 and y0 >= 0 and x1 <= 641 and y1 <= 641
        for a0, b0, a1, b1 in drawn[:i]:
            apart = x1 <= a0 + 1 or a1 <= x0 + 1 or y1 <= b0 + 1 or b1 <= y0 + 1
            assert apart, "labels cover each other"


def test_an_instance_without_a_mask_is_drawn_as_its_box(metadata):
    inside = np.s_[14:20, 10:20]  # of the first square's lower half and of its box

    def picture(has_mask):
        return draw_instances(WHITE, make_targets([has_mask], [0]), metadata, labels=False)

    assert (picture(True)[8:12, 10:20] < 250).any(axis=-1).all()
    assert (picture(False)[inside] == 255).all(), "the stand-in mask must not be shown"


def test_annotations_with_and_without_masks_in_any_order(metadata):
    with_mask = {
        "bbox": [30, 30, 20, 20],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [[30, 30, 50, 30, 50, 50, 30, 50]],
    }
    without = {"bbox": [4, 4, 12, 12], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    for annotations in ([with_mask, without], [without, with_mask]):
        picture = draw_annotations(WHITE, annotations, metadata, labels=False)
        assert greenest_and_reddest(picture[32:48, 32:48])[0] > 50
        assert (picture[7:13, 7:13] == 255).all()
        assert greenest_and_reddest(picture[:18, :18])[1] > 80
    assert (draw_annotations(WHITE, [], metadata) == 255).all()
