"""Which pseudo-masks the input of a job may have: none that could be lost or taken for real."""

import itertools
import re

import pytest

from maskx_d2.pseudo_masks.plan import check_is_original

OF_BOXES = ("grabcut", "model", "box")
OF_LABELS = ("wise", "wise+grabcut", "wise+box")
ALLOWED = {("B", "C", source) for source in OF_LABELS} | {("C", "B", source) for source in OF_BOXES}


@pytest.mark.parametrize(
    ("makes", "letter", "source"),
    list(itertools.product("BC", ("A", "B", "C", None), (*OF_BOXES, *OF_LABELS, "unheard of"))),
)
def test_masks_of_the_other_set_and_of_its_own_methods_alone(makes, letter, source):
    annotation = {"mask_source": source}
    if (makes, letter, source) in ALLOWED:
        check_is_original(annotation, letter, makes, "annotation 3")
    else:
        with pytest.raises(ValueError, match=re.escape(f"already, of '{source}'")):
            check_is_original(annotation, letter, makes, "annotation 3")


@pytest.mark.parametrize("letter", ["A", "B", "C", None])
def test_real_masks_are_anywhere(letter):
    check_is_original({"segmentation": [[0, 0, 1, 0, 1, 1]]}, letter, "B", "annotation 3")
