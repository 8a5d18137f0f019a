import numpy as np
import pytest

from maskx_d2._counted import counted
from maskx_d2.panels import captioned, side_by_side

BLACK = np.zeros((60, 300, 3), np.uint8)


def test_a_caption_keeps_the_size_and_most_of_the_picture():
    picture = captioned(BLACK, "no detection above 0.5")
    assert picture.shape == BLACK.shape
    assert (picture[:40] == 255).any() and (picture == 0).mean() > 0.5
    assert (captioned(BLACK[:8, :8], "no detection above 0.5").shape) == (8, 8, 3)
    assert not (side_by_side({"a": BLACK, "b": BLACK})[-60:, :300]).any()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 whole boxes"), (1, "1 whole box"), (2, "2 whole boxes")]
)
def test_numbers_of_things(count, text):
    assert counted(count, "whole box", "whole boxes") == text
    assert counted(count, "image") == f"{count} image" + ("" if count == 1 else "s")
